"""`ray job submit` of a job that runs on Spot machines, which are taken back while it runs.

A real head (`ironcliw up`), its autoscaler and controller, a fake cloud, and machines that join.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import Preempt
from cluster.testing.instances import Timings
from cluster.testing.process_vms import SMALL_NODE, SYSTEM_PATH, ProcessVms
from cluster.testing.world import World
from ironcliw.client import Client

from .conftest import ROOT, Head

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

BIN = Path(sys.executable).parent
BELOW, PRIMES, EVERY = 150, 35, 7
SUBMIT = (
    'eval "$(ironcliw env)" && ray job submit --working-dir "$PACKAGE" -- '
    "python -m actors.examples.spot_job"
)


@dataclass
class Home:
    """A head, and the cloud that it uses."""

    head: Head
    world: World
    vms: ProcessVms
    jobs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def live(self) -> list[str]:
        with self.world.lock:
            self.world.step()
            return sorted(one.name for one in self.world.instances.values())

    def submit(self, folder: Path) -> subprocess.Popen[bytes]:
        """Begins the job; what it says stands in `job.log`."""
        package = folder / "package"
        package.mkdir()
        for name in ("actors", "cluster", "ironcliw"):
            (package / name).symlink_to(ROOT / name)
        job = f"--to {folder}/state.json --trace {folder}/trace --pause 0.2"
        path = f"{BIN}:{SYSTEM_PATH}"
        with (folder / "job.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"{SUBMIT} {job} --below {BELOW} --every {EVERY}"],
                env={**self.head.environment, "PATH": path, "PACKAGE": str(package)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.jobs.append(process)
        return process

    def logs(self, folder: Path) -> str:
        """For a test that failed."""
        monitor = Path(self.head.environment["IRONCLIW_CLUSTER__TEMP_DIR"]).glob(
            "session_latest/logs/monitor.log"
        )
        texts = [path.read_text()[-3000:] for path in (folder / "job.log", *monitor)]
        texts += [self.vms.serial(name)[-2000:] for name in self.live()]
        return "\n".join([*texts, self.head.run("status").stdout])


def wait_for(condition: Callable[[], Any], seconds: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what()}")
        time.sleep(0.05)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    world = World(
        timings=Timings(provisioning=0.5, staging=0.5),
        address=lambda count: f"127.0.1.{1 + count % 250}",
    )
    inside = {"PATH": f"{BIN}:{SYSTEM_PATH}", "IRONCLIW_VM_BIN": str(BIN)}
    inside["IRONCLIW_RAY_OPTIONS"] = SMALL_NODE
    with (
        FakeCompute(world) as compute,
        ProcessVms(world, folder / "vms", environment=inside, longest_seconds=1200.0) as vms,
    ):
        head = Head(
            folder,
            IRONCLIW_CLOUD__PROJECT=compute.project,
            IRONCLIW_CLOUD__API_ENDPOINT=compute.url,
            IRONCLIW_CLOUD__VPN="none",
            IRONCLIW_CLOUD__IMAGE_IS_BAKED="true",
            IRONCLIW_CLOUD__NOTICE_SECONDS="30",
            IRONCLIW_BUDGET__MONTH_USD="200",
            IRONCLIW_CLUSTER__NODE_IP="127.0.0.2",
            IRONCLIW_CLUSTER__OBJECT_STORE_BYTES="80000000",
            IRONCLIW_CLUSTER__START_TIMEOUT_SECONDS="450",
            IRONCLIW_SERVE__PINNED_MODELS="[]",
            IRONCLIW_ACTORS__MODULES='["tests.integration.workflow_steps"]',
            # Ray gives its own processes half a minute, which a busy machine may need longer for
            RAY_raylet_start_wait_time_s="200",
        )
        try:
            result = head.run("up", timeout=500)
            assert result.returncode == 0, result.stderr
            yield Home(head, world, vms)
            down = head.run("down", timeout=200)
            assert down.returncode == 0, down.stderr
            wait_for(
                lambda: not world.instances or not Home(head, world, vms).live(), 90, "the end"
            )
        finally:
            head.run("down", timeout=200)
            head.remove()


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
    job = home.submit(tmp_path)
    first = working_on(home, tmp_path)
    home.world.add(Preempt(notice=30, name=first))
    done = finish(home, job, tmp_path)
    assert set(done.values()) == {1}
    assert first not in home.live()
    cost = home.head.json("cost")
    assert any(user.startswith("job/raysubmit_") for user in cost["by_use"]), cost


def test_a_sudden_death_costs_the_steps_since_the_last_save(home: Home, tmp_path: Path) -> None:
    job = home.submit(tmp_path)
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


def test_the_status_tells_of_the_machines(home: Home, tmp_path: Path) -> None:
    cloud = home.head.json("status")["cloud"]
    assert cloud["controller_alive"]
    kinds = {event["kind"] for event in cloud["events"]}
    assert kinds & {"launch", "joined", "preempted", "drained", "reaped", "left"}
    assert "controller: alive, cloud answers, head answers" in home.head.run("status").stdout
