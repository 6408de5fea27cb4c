"""The learned router on a real head: asked, followed, explained, and taken off again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ironcliw.client import Client
from ironcliw.errors import DeadlineExceededError
from rl.live.base import base_of, base_parameters
from rl.policy_file import save_policy
from rl.view import WAIT
from tests.integration.conftest import Head
from tests.unit.rl.live.situations import policy_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    head = Head(
        tmp_path_factory.mktemp("routing"),
        IRONCLIW_ACTORS__MODULES=json.dumps(["tests.integration.workflow_steps"]),
        IRONCLIW_ROUTING__POLICY="rl.policy:NumpyPolicy",
    )
    result = head.run("up")
    assert result.returncode == 0, result.stderr
    yield head
    assert head.run("down").returncode == 0
    head.remove()


def submit(client: Client, folder: Path) -> str:
    # no step of milliseconds: where the head rests, those may not wait
    step = {"function": "tests.note_slowly", "with": {"folder": str(folder)}}
    return client.submit_workflow({"name": "one", "steps": {"note": step}}).id


def test_a_policy_decides_lets_wait_and_is_taken_off(routed: Head, tmp_path: Path) -> None:
    file = tmp_path / "waits.npz"
    save_policy(file, policy_of(1e4, favourite=WAIT))
    with Client(base_url=routed.url, timeout=60) as client:
        first = submit(client, tmp_path)
        assert client.wait_for_workflow(first, seconds=60).status == "completed"
        wait_for(lambda: routed.run("route", "explain", first).returncode == 0)
        [page] = routed.json("route", "explain", first)
        assert (page["chosen"], page["policy"]) == ("home", base_of(base_parameters()).name)
        assert page["options"][1]["refused"] == "there is no cloud: cloud.project is not set"
        assert page["outcome"]["outcome"] == "ok"

        assert routed.run("route", "promote", str(file)).returncode == 0
        stages = [routed.json("route", "promote")["stage"] for _ in range(3)]
        assert stages == ["canary", "half", "default"]
        held: list[str] = []

        def holds() -> bool:
            held.append(submit(client, tmp_path))
            try:
                client.wait_for_workflow(held[-1], seconds=2)
            except DeadlineExceededError:
                return client.workflow(held[-1]).steps[0].status == "ready"
            return False

        wait_for(holds, 60)
        assert routed.json("route", "status")["standing"]["stage"] == "default"
        assert routed.run("route", "rollback").returncode == 0
        ended = client.wait_for_workflow(held[-1], seconds=60)
        assert ended.status == "completed", "it is asked about again when another decides"
        assert (ended.steps[0].attempts, ended.steps[0].status) == (1, "completed")
    path = tmp_path / "log.jsonl"
    assert routed.run("route", "log", "--out", str(path)).returncode == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    # on a full head the base may have let one wait before
    waited = [row for row in rows if row["row"] == "decision" and row["chosen"] == WAIT]
    assert any(row["policy"].startswith("learned ") for row in waited)
