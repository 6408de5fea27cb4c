"""Ray's own autoscaler, our provider, a fake cloud, and machines that really join."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest

from cluster.testing.bed import Bed, bed
from cluster.testing.faults import Hook, Preempt, Stockout

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

A, B = "us-central1-a", "us-central1-b"
TASK = """
@ray.remote(resources={"spot": 1}, num_cpus=1)
def where():
    import os
    return os.environ["RAY_CLOUD_INSTANCE_ID"]
print("at", ray.get(where.remote()))
"""

ACTOR = """
import os, time
@ray.remote(resources={"spot": 1}, num_cpus=1, max_restarts=1, max_task_retries=-1)
class Place:
    def name(self):
        return os.environ["RAY_CLOUD_INSTANCE_ID"]
place = Place.remote()
first = ray.get(place.name.remote())
print("at", first, flush=True)
while (now := ray.get(place.name.remote())) == first:
    time.sleep(0.1)
print("at", now)
"""


def next_place(driver: subprocess.Popen[str]) -> str:
    """The next machine that a driver names; between its words are those of Ray."""
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.startswith("at "):
            return line.split()[1]
    raise AssertionError("the driver has ended without a word")


def place_of(driver: subprocess.Popen[str], cluster: Bed) -> str:
    """The same at its end."""
    cluster.wait_for(lambda: driver.poll() is not None, 150, "the driver's end")
    return next_place(driver)


def memory(pid: int) -> int:
    """Proportional set size, bytes."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))


def test_from_nothing_to_one_machine_and_back(tmp_path: Path) -> None:
    """The first zone is empty, too: the machine comes from the next one, in the same round."""
    with bed(tmp_path, Stockout(zone=A, hint=(B,)), longest_seconds=400) as cluster:
        driver = cluster.driver(TASK)
        (name,) = cluster.wait_for(cluster.live, 120, "a machine")
        first, second = cluster.inserts()
        assert (first.path, second.path) == (cluster.insert_path(A), cluster.insert_path(B))
        assert place_of(driver, cluster) == name
        # in the round that asked the first zone: Ray says so once a round
        assert cluster.monitor_log().count("Launching 1 nodes") == 1
        # its node is drained away and its agent turns the power off; then whoever sees it first of
        # autoscaler and controller deletes it
        cluster.wait_for(lambda: not cluster.live(), 120, "the end of an idle machine")
        assert len(cluster.inserts()) == 2
        cluster.wait_for(lambda: cluster.told("deleted", "reaped"), 60, "the word on its end")
        assert cluster.told("joined")[0].startswith(f"machine {name} joined")
        # 124 to 127 on Linux x86-64, of which the messages of google-cloud-compute are 98
        assert memory(cluster.controller.pid) <= 131_000_000
        assert cluster.told("launch") == [f"machine {name} launched in {B}"]
        assert "ZONE_RESOURCE_POOL_EXHAUSTED" in cluster.told("launch_failed")[0]


def test_a_machine_beyond_the_budget_is_refused_with_a_reason(tmp_path: Path) -> None:
    with bed(tmp_path, month_usd=0.5) as cluster:
        cluster.driver(TASK)
        (message,) = cluster.wait_for(lambda: cluster.told("refused"), 120, "the refusal")
        assert "budget.month_usd allows 0.50" in message
        assert cluster.inserts() == []


@pytest.mark.slow
def test_an_autoscaler_killed_amid_a_launch_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with bed(tmp_path) as cluster:
        monitor = cluster.wait_for(cluster.monitor, 30, "the autoscaler")
        command, environment = monitor.cmdline(), monitor.environ()
        cluster.world.hooks["crash"] = lambda _: monitor.kill()
        cluster.world.add(Hook(when="created", label="crash"))
        driver = cluster.driver(TASK)
        (name,) = cluster.wait_for(cluster.live, 120, "a machine")
        psutil.wait_procs([monitor], timeout=30)
        assert cluster.told("launch") == []
        again = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            assert place_of(driver, cluster) == name
            assert cluster.live() == [name]
            assert len(cluster.inserts()) == 1
        finally:
            again.kill()
            again.wait()


def test_the_replacement_is_there_before_the_end(tmp_path: Path) -> None:
    """Work moves within the notice: a machine is asked for at the notice, not after the loss."""
    # the longest notice of GCE: a busy machine takes a minute for a start of Ray
    with bed(
        tmp_path, cloud={"idle_minutes": 5.0, "notice_seconds": 120}, longest_seconds=400
    ) as cluster:
        first = next_place(cluster.driver(ACTOR))
        cluster.wait_for(lambda: cluster.told("joined"), 60, "the controller's look at it")
        cluster.world.add(Preempt(notice=120, name=first))
        cluster.wait_for(lambda: len(cluster.told("joined")) == 2, 110, "the replacement")
        assert first in cluster.vms.names()
        (told,) = cluster.told("preempted")
        assert told.startswith(f"machine {first} ")
        assert len(cluster.inserts()) == 2
        # a cluster that works is not called silent
        assert not cluster.told("head")
