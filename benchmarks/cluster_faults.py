"""Crashes of the head in every step of a launch, and storms of the Compute API.

    python -m benchmarks.cluster_faults [--storm 60]

The head is a real process, killed with SIGKILL; the cloud is the fake one of `cluster.testing`. One
storm meets the provider alone, with a second machine wanted; another one Ray's own autoscaler and
the controller, with a machine at work.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import BenchmarkError
from cluster.config import HEAD_INSTANCE_ID
from cluster.testing.bed import bed
from cluster.testing.crashes import STEPS, TICKS, Aftermath, crash
from cluster.testing.faults import ApiStorm
from cluster.testing.storms import WANTED, StormReport, storm

LONGEST_BLOCK_SECONDS = 10.0
_AT_WORK = """
import time
@ray.remote(resources={"spot": 1}, num_cpus=1)
class Work:
    def ready(self):
        return True
work = Work.remote()
print("at", ray.get(work.ready.remote()), flush=True)
time.sleep(600)
"""
# of Ray's autoscaler/v2/monitor.py: how a round ends that could not list the machines
_FAILED_ROUND = "No autoscaling state to report."
# the ends of the autoscaler's rounds: the GCS counts those that succeed, its log has the others
_WATCH = """
import time
from pathlib import Path
from cluster.control.gcs_link import GcsLink
link = GcsLink({address!r}, {head!r})
log = Path({log!r})
def ended():
    return link.look().round, log.read_text(errors="replace").count({failed!r})
last, since, longest = ended(), time.monotonic(), 0.0
end = since + {seconds}
print("watching", flush=True)
while (now := time.monotonic()) < end:
    longest = max(longest, now - since)
    if (seen := ended()) != last:
        last, since = seen, time.monotonic()
    time.sleep(0.05)
print("at", longest, flush=True)
"""
_AFTER_SECONDS = 15.0


def crashes() -> dict[str, Aftermath]:
    """What is left of each step, two rounds of a new head later."""
    return {step: _in_a_folder(step) for step in STEPS}


def _in_a_folder(step: str) -> Aftermath:
    with tempfile.TemporaryDirectory(prefix="ironcliw-crash-") as folder:
        return crash(step, Path(folder))


def api_storm(seconds: float = 60.0) -> StormReport:
    """A storm in real time."""
    with tempfile.TemporaryDirectory(prefix="ironcliw-storm-") as folder:
        return storm(Path(folder), seconds)


@dataclass(frozen=True, slots=True)
class ClusterStorm:
    """A storm met by Ray's autoscaler and the controller.

    Attributes:
        longest_pause_seconds: Most that passed between the ends of two rounds of the autoscaler,
            whether they could list the machines or not; its own pause of a second is in it.
        lost_or_doubled: Machines that are gone, and those that were ordered beside the one at work.
    """

    longest_pause_seconds: float
    lost_or_doubled: int


def cluster_storm(seconds: float = 60.0) -> ClusterStorm:
    """A machine at work when every call of the cloud begins to fail.

    Raises:
        BenchmarkError: the storm reached nobody.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ironcliw-storm-") as folder,
        bed(Path(folder), cloud={"idle_minutes": 10.0}, longest_seconds=seconds + 300) as cluster,
    ):
        _next_word(cluster.driver(_AT_WORK), "at")
        before = cluster.live()
        [log] = cluster.settings.ray_temp_dir.glob("session_latest/logs/monitor.log")
        program = _WATCH.format(
            address=cluster.address,
            head=HEAD_INSTANCE_ID,
            log=str(log),
            failed=_FAILED_ROUND,
            seconds=seconds + _AFTER_SECONDS,
        )
        watch = cluster.driver(program)
        _next_word(watch, "watching")
        cluster.world.add(ApiStorm(seconds=seconds))
        longest = float(_next_word(watch, "at"))
        if _FAILED_ROUND not in cluster.monitor_log() or not cluster.told("cloud"):
            raise BenchmarkError("the storm did not reach both autoscaler and controller")
        lost = len(set(before) - set(cluster.live()))
        return ClusterStorm(longest, lost + len(cluster.inserts()) - len(before))


def _next_word(driver: subprocess.Popen[str], first: str) -> str:
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.split()[:1] == [first]:
            return line.removeprefix(first).strip()
    raise BenchmarkError(f"a driver has ended before it said {first!r}")


def is_well(found: Aftermath) -> bool:
    """One machine, ordered once, known to all, and no money held for what never came."""
    counts = len(found.machines), found.inserts, len(found.orphans), len(found.held_later)
    return counts == (1, 1, 0, 0)


def main() -> int:
    """Print what was found; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description="Crashes of the head, and a storm of the API.")
    parser.add_argument("--storm", type=float, default=60.0, help="seconds of 503")
    given = parser.parse_args()
    missed = False
    for step, found in crashes().items():
        missed = missed or not is_well(found)
        print(
            f"killed {step}: after {TICKS} rounds {len(found.machines)} machine, "
            f"{len(found.orphans)} orphans, {found.inserts} orders, "
            f"{len(found.promised)} promises open and {len(found.held_later)} later"
        )
    report = api_storm(given.storm)
    missed = missed or report.longest_block_seconds > LONGEST_BLOCK_SECONDS
    missed = missed or (report.lost, report.machines) != (0, WANTED)
    print(
        f"storm of {given.storm:g} s: a listing took {report.longest_block_seconds:.1f} s at the "
        f"most, {report.failed_rounds} rounds had none, {report.lost} machines lost, "
        f"{report.machines} of {WANTED} there in the end"
    )
    real = cluster_storm(given.storm)
    missed = missed or real.longest_pause_seconds > LONGEST_BLOCK_SECONDS
    missed = missed or real.lost_or_doubled != 0
    print(
        f"the same met by Ray's autoscaler: {real.longest_pause_seconds:.1f} s between two rounds "
        f"at the most, {real.lost_or_doubled} machines lost or doubled"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
