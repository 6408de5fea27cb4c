"""`ray job submit` of a job that runs on Spot machines, which are taken back while it runs.

A real head (`ironcliw up`), its autoscaler and controller, a fake cloud, and machines that join.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.testing.faults import Preempt
from cluster.testing.process_vms import SYSTEM_PATH
from ironcliw.client import Client
from ironcliw.schemas.workflows import WorkflowEvent

from .conftest import ROOT
from .homes import BIN, Home, home_in, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

BELOW, PRIMES, EVERY = 150, 35, 7
SUBMIT = (
    'eval "$(ironcliw env)" && ray job submit --working-dir "$PACKAGE" -- '
    "python -m actors.examples.spot_job"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home_in(tmp_path_factory.mktemp("home")) as home:
        yield home


def submit(home: Home, folder: Path) -> subprocess.Popen[bytes]:
    """Begins the job; what it says stands in `job.log`."""
    package = folder / "package"
    package.mkdir()
    for name in ("actors", "cluster", "ironcliw"):
        (package / name).symlink_to(ROOT / name)
    job = f"--to {folder}/state.json --trace {folder}/trace --pause 0.2"
    path = f"{BIN}:{SYSTEM_PATH}"
    with (folder / "job.log").open("wb") as log:
        return subprocess.Popen(
            ["bash", "-c", f"{SUBMIT} {job} --below {BELOW} --every {EVERY}"],
            env={**home.head.environment, "PATH": path, "PACKAGE": str(package)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def steps(folder: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(line) for line in (folder / "trace").read_text(encoding="ascii").splitlines()]
    return []


def finish(home: Home, job: subprocess.Popen[bytes], folder: Path) -> Counter[int]:
    """Waits for the end; how often each step was done."""
    wait_for(lambda: job.poll() is not None, 240, lambda: home.logs(folder))
    output = (folder / "job.log").read_text()
    assert job.returncode == 0, output
    assert f"{PRIMES} primes below {BELOW}" in output
    done = Counter(steps(folder))
    assert sorted(done) == list(range(BELOW))
    return done


def working_on(home: Home, folder: Path) -> str:
    """The machine that does the steps, once it does them."""
    wait_for(lambda: len(steps(folder)) > 2 * EVERY, 200, lambda: home.logs(folder))
    (name,) = home.live()
    return name


def test_a_noticed_preemption_costs_no_step(home: Home, tmp_path: Path) -> None:
    job = submit(home, tmp_path)
    first = working_on(home, tmp_path)
    home.world.add(Preempt(notice=30, name=first))
    done = finish(home, job, tmp_path)
    assert set(done.values()) == {1}
    assert first not in home.live()
    cost = home.head.json("cost")
    assert any(user.startswith("job/raysubmit_") for user in cost["by_use"]), cost


def test_a_sudden_death_costs_the_steps_since_the_last_save(home: Home, tmp_path: Path) -> None:
    job = submit(home, tmp_path)
    first = working_on(home, tmp_path)
    home.world.add(Preempt(notice=0, name=first))
    done = finish(home, job, tmp_path)
    assert 0 < sum(count - 1 for count in done.values()) <= EVERY


def test_a_step_moves_at_once_when_its_machine_is_taken_back(home: Home, tmp_path: Path) -> None:
    step = {"function": "tests.wait", "with": {"folder": str(tmp_path)}, "place": "spot"}
    trace = tmp_path / "trace.jsonl"

    def attempts() -> int:
        return len(trace.read_text().splitlines()) if trace.exists() else 0

    with Client(base_url=home.head.url, timeout=60) as client:
        run = client.submit_workflow({"name": "moves", "steps": {"work": step}})
        wait_for(lambda: attempts() == 1, 200, lambda: home.logs(tmp_path))
        (first,) = home.live()
        home.world.add(Preempt(notice=30, name=first))
        wait_for(lambda: attempts() == 2, 200, lambda: home.logs(tmp_path))
        (tmp_path / "gate").touch()
        done = client.wait_for_workflow(run.id, seconds=120)
        events = list(client.workflow_events(run.id))
    assert (done.status, done.output) == ("completed", "passed")
    failed = [event.data["error"]["kind"] for event in events if event.kind == "step_failed"]
    assert failed == ["moved"], "it was started again before its machine ended"
    assert first not in home.live()


AGAIN_AND_ONCE = ("again", "once")
"""Of a step that may be run twice, and one that may not; both in the cloud."""


@contextlib.contextmanager
def two_steps(home: Home, folder: Path) -> Iterator[tuple[Client, str, str]]:
    """A workflow whose steps are both at it: a client, its id, and the machine that they are on."""
    given = {"with": {"folder": str(folder)}, "place": "spot"}
    functions = ("tests.wait", "tests.wait_once")
    steps = {
        name: {"function": function, **given}
        for name, function in zip(AGAIN_AND_ONCE, functions, strict=True)
    }
    with Client(base_url=home.head.url, timeout=60) as client:
        run = client.submit_workflow({"name": "two", "steps": steps, "output": "${steps.once}"})
        wait_for(
            lambda: attempts(folder) == {"again": 1, "once": 1}, 200, lambda: home.logs(folder)
        )
        (machine,) = home.live()
        yield client, run.id, machine


def attempts(folder: Path) -> Counter[str]:
    trace = folder / "trace.jsonl"
    lines = trace.read_text().splitlines() if trace.exists() else []
    return Counter(json.loads(line)["step"] for line in lines)


def started(client: Client, run: str) -> dict[str, int]:
    return {step.name: step.attempts for step in client.workflow(run).steps}


def errors(events: list[WorkflowEvent]) -> dict[str | None, list[Any]]:
    """Step -> the kinds of its failures."""
    found: dict[str | None, list[Any]] = {}
    for event in events:
        if event.kind in ("step_failed", "step_uncertain"):
            found.setdefault(event.step, []).append(event.data["error"]["kind"])
    return found


def test_what_may_not_run_twice_has_until_the_machines_end(home: Home, tmp_path: Path) -> None:
    with two_steps(home, tmp_path) as (client, run, machine):
        home.world.add(Preempt(notice=30, name=machine))
        # the other one is begun anew while its machine is still there
        wait_for(lambda: started(client, run)["again"] == 2, 20, lambda: home.logs(tmp_path))
        (tmp_path / "gate").touch()
        done = client.wait_for_workflow(run, seconds=120)
        failed = errors(list(client.workflow_events(run)))
    assert (done.status, done.output) == ("completed", "passed")
    assert failed == {"again": ["moved"]}
    assert attempts(tmp_path) == {"again": 2, "once": 1}


def test_a_machine_that_dies_leaves_what_may_not_run_twice_to_its_user(
    home: Home, tmp_path: Path
) -> None:
    with two_steps(home, tmp_path) as (client, run, machine):
        home.world.add(Preempt(notice=0, name=machine))
        wait_for(lambda: attempts(tmp_path)["again"] == 2, 200, lambda: home.logs(tmp_path))
        (tmp_path / "gate").touch()
        stands = client.wait_for_workflow(run, seconds=120)
        assert stands.status == "uncertain"
        skipped = home.head.run("workflow", "skip", run, "once", "--value", '"by hand"')
        assert skipped.returncode == 0, skipped.stderr
        done = client.wait_for_workflow(run, seconds=60)
        failed = errors(list(client.workflow_events(run)))
    assert (done.status, done.output) == ("completed", "by hand")
    # an attempt that Ray sends to the lost machine does not begin, and is another loss
    assert (set(failed["again"]), failed["once"]) == ({"lost"}, ["lost"])
    assert attempts(tmp_path) == {"again": 2, "once": 1}


def test_the_status_tells_of_the_machines(home: Home, tmp_path: Path) -> None:
    cloud = home.head.json("status")["cloud"]
    assert cloud["controller_alive"]
    kinds = {event["kind"] for event in cloud["events"]}
    assert kinds & {"launch", "joined", "preempted", "drained", "reaped", "left"}
    assert "controller: alive, cloud answers, head answers" in home.head.run("status").stdout
