"""The learned router with machines: one is bought, then used by name, and what it did is logged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ironcliw.client import Client
from tests.waiting import wait_for

from .homes import Home, home_in

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    # without trials of what costs about as much: each step goes where it is believed to be best
    with home_in(folder, IRONCLIW_ROUTING__EXPLORATION="0") as home:
        yield home


def run(client: Client, folder: Path, **fields: Any) -> str:
    """A workflow of one step; its id once it has completed."""
    step = {
        "function": "tests.note",
        "with": {"folder": str(folder)},
        "expected_seconds": 2.0,
        "memory_gb": 0.1,
        **fields,
    }
    view = client.submit_workflow({"name": "one", "steps": {"note": step}})
    assert client.wait_for_workflow(view.id, seconds=300).status == "completed"
    return view.id


def explained(home: Home, workflow: str) -> dict[str, Any]:
    """The last decision on its step: one that waits has several."""
    found: list[dict[str, Any]] = []

    def is_over() -> bool:
        # what came of it is logged a moment after the workflow has completed
        found[:] = home.head.json("route", "explain", workflow)
        return found[-1]["outcome"] is not None

    wait_for(is_over)
    return found[-1]


def test_a_machine_is_bought_then_named_and_its_money_counted(home: Home, tmp_path: Path) -> None:
    with Client(base_url=home.head.url, timeout=60) as client:
        first = run(client, tmp_path, place="spot")
        bought = explained(home, first)
        [machine] = home.live()
        second = run(client, tmp_path, place="spot")
        named = explained(home, second)
        third = run(client, tmp_path)
        at_home = explained(home, third)
        assert home.live() == [machine], "the second step has bought none"
    refused = {one["name"]: one["refused"] for one in bought["options"]}
    assert bought["chosen"] == "buy"
    assert refused["home"] == "the step is to run on a machine"
    assert refused["machine 0"] == "there is no such machine"
    assert named["chosen"] == "machine 0"
    refused = {one["name"]: one["refused"] for one in named["options"]}
    assert refused["buy"] == "a machine has room, and Ray would start it there"
    assert at_home["chosen"] == "home"
    assert named["outcome"]["place"] == "spot"
    assert at_home["outcome"]["place"] == "local"
    path = tmp_path / "log.jsonl"
    assert home.head.run("route", "log", "--out", str(path)).returncode == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    [fleet] = [row for row in rows if row["row"] == "fleet"]
    assert len(fleet["intervals"]) == len(fleet["boots"]) == 1
    assert fleet["price_per_hour"] > 0
    nodes = {step["node"] for row in rows if row["row"] == "workflow" for step in row["steps"]}
    assert len(nodes) == 2
