"""How fast machines come and go on the test bed: part of theme `cluster`.

The test bed is `cluster.testing`: a fake Compute API and VMs that are processes of this machine;
all else is real (Ray, its autoscaler, the provider, the controller, the agent). The cloud needs two
seconds from an order to a running guest; a real one needs half a minute and more.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.harness import Goal, Options, Row, Samples
from cluster.testing.bed import Bed, bed
from cluster.testing.faults import Stockout
from cluster.testing.instances import Timings

THEME = "cluster"
TWO_SECONDS = Timings(provisioning=1.0, staging=1.0)
"""From an order to a running guest."""
FIRST, NEXT = "us-central1-a", "us-central1-b"
_IDLE_SECONDS = 15.0
_TASK = """
import time
@ray.remote(resources={"spot": 1}, num_cpus=1)
def when():
    return time.time()
asked = time.time()
print("at", ray.get(when.remote()) - asked, flush=True)
"""


def scaling_rows(options: Options) -> list[Row]:
    """From nothing to a machine and back, and a zone without capacity.

    Raises:
        BenchmarkError: the test bed did not come up.
    """
    rounds = options.rounds or (1 if options.quick else 3)
    pairs = [_up_and_down() for _ in range(rounds)]
    stocked_out = [_next_zone() for _ in range(rounds)]
    return [
        Row(
            THEME,
            "demand to the first task on a new worker",
            "s",
            Samples.of(up for up, _ in pairs),
            goal=Goal(15.0, at_most=True),
        ),
        Row(
            THEME,
            f"idle to no machine, time-out {_IDLE_SECONDS:g} s",
            "s",
            Samples.of(down for _, down in pairs),
            goal=Goal(22.0, at_most=True),
        ),
        Row(
            THEME,
            "first zone without capacity: until the next one is asked",
            "s",
            Samples.of(seconds for seconds, _ in stocked_out),
            goal=Goal(1.0, at_most=True),
            note="a round of the autoscaler is 1 s",
        ),
        Row(
            THEME,
            "calls to the empty zone while it rests",
            "calls",
            Samples.of(calls for _, calls in stocked_out),
            goal=Goal(0.0, at_most=True),
            note="a second machine is asked for meanwhile",
        ),
    ]


def _up_and_down() -> tuple[float, float]:
    """Seconds from a demand to its task's start, and from the task's end to no machine."""
    cloud = {"idle_minutes": _IDLE_SECONDS / 60}
    with _folder() as folder, bed(Path(folder), cloud=cloud, timings=TWO_SECONDS) as cluster:
        took = float(words(cluster, _TASK))
        idle = time.monotonic()
        cluster.wait_for(lambda: not cluster.vms.names(), 90, "the end of an idle machine")
        return took, time.monotonic() - idle


def _next_zone() -> tuple[float, float]:
    """Seconds from the empty zone's refusal to the next zone's order; later calls to the first."""
    empty = Stockout(zone=FIRST, hint=(NEXT,))
    with _folder() as folder, bed(Path(folder), empty, timings=TWO_SECONDS) as cluster:
        cluster.driver(_TASK)
        cluster.wait_for(lambda: len(cluster.inserts()) > 1, 90, "an order in the next zone")
        cluster.driver(_TASK)
        cluster.wait_for(lambda: len(cluster.inserts()) > 2, 90, "an order of a second machine")
        first, second, *_ = cluster.inserts()
        asked = [one for one in cluster.inserts() if one.path == cluster.insert_path(FIRST)]
        return second.at - first.at, len(asked) - 1


def words(cluster: Bed, program: str, seconds: float = 120.0) -> str:
    """What a driver says after `at`, once it has ended."""
    driver = cluster.driver(program)
    cluster.wait_for(lambda: driver.poll() is not None, seconds, "the end of a driver")
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.startswith("at "):
            return line.removeprefix("at ").strip()
    raise AssertionError(f"the driver has ended without a word\n{cluster.logs()}")


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ironcliw-bench-")
