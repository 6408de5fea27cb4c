"""An actor on a machine that is taken back: when it answers elsewhere, and how long it was silent.

The same preemption is met twice in a run: by our agent and controller, and by what an agent does
that drains its node and nothing else (no replacement is asked for, its raylet stays to the end).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cluster_scaling import THEME, TWO_SECONDS, words
from benchmarks.harness import Goal, Options, Row, Samples, interleave
from cluster.testing.bed import Bed, bed
from cluster.testing.faults import Preempt

NOTICES = (15.0, 30.0)
_GAP_GOAL_SECONDS = 1.0
_SPARE_SECONDS = 3.0
# asks without a pause: the longest time between two answers is the gap
_ACTOR = """
import json, os, time
@ray.remote(resources={{"spot": 1}}, num_cpus=1, max_restarts=1, max_task_retries=-1)
class Place:
    def name(self):
        return os.environ["RAY_CLOUD_INSTANCE_ID"]
place = Place.remote()
first = now = ray.get(place.name.remote())
open({ready!r}, "w").write(first)
gap, before = 0.0, time.time()
while now == first:
    now = ray.get(place.name.remote())
    answered = time.time()
    gap, before = max(gap, answered - before), answered
    time.sleep(0.02)
print("at", json.dumps([answered, gap]), flush=True)
"""
_DRAIN = """
from cluster.vm.head import connect_to_gcs, drain_once
node = next(n["NodeID"] for n in ray.nodes() if n["Alive"] and "spot" in n["Resources"])
print("at", drain_once(connect_to_gcs({address!r}), node, "preempted", {seconds!r})[0])
"""


@dataclass(frozen=True, slots=True)
class Moved:
    """How an actor came through.

    Attributes:
        seconds: From the notice to its first answer elsewhere.
        gap: Longest time without an answer.
    """

    seconds: float
    gap: float


def notice_rows(options: Options) -> list[Row]:
    """Each notice, ours and drain only, in alternation.

    Raises:
        BenchmarkError: the test bed did not come up.
    """
    rounds = options.rounds or (1 if options.quick else 3)
    rows: list[Row] = []
    for notice in NOTICES:
        contestants: dict[str, Callable[[], Moved]] = {
            "ours": lambda notice=notice: _moved(notice, _noticed),  # type: ignore[misc]
            "drain only": lambda notice=notice: _moved(notice, _only_drained),  # type: ignore[misc]
        }
        found = interleave(contestants, rounds)
        rows += [
            Row(
                THEME,
                f"notice of {notice:g} s until an actor answers elsewhere",
                "s",
                Samples.of(one.seconds for one in found["ours"]),
                {"drain only": Samples.of(one.seconds for one in found["drain only"])},
                Goal(notice - _SPARE_SECONDS, at_most=True),
            ),
            Row(
                THEME,
                f"the same: longest time without an answer, notice of {notice:g} s",
                "s",
                Samples.of(one.gap for one in found["ours"]),
                {"drain only": Samples.of(one.gap for one in found["drain only"])},
                Goal(_GAP_GOAL_SECONDS, at_most=True),
            ),
        ]
    return rows


def _moved(notice: float, preempt: Callable[[Bed, str, float], None]) -> Moved:
    with (
        tempfile.TemporaryDirectory(prefix="ironcliw-bench-") as folder,
        bed(
            Path(folder),
            # what the cloud promises is what the agent plans with
            cloud={"idle_minutes": 5.0, "notice_seconds": round(notice)},
            timings=TWO_SECONDS,
            longest_seconds=240.0,
        ) as cluster,
    ):
        ready = Path(folder) / "ready"
        driver = cluster.driver(_ACTOR.format(ready=str(ready)))
        cluster.wait_for(lambda: ready.exists() and ready.read_text(), 90, "an actor that answers")
        cluster.wait_for(lambda: cluster.told("joined"), 30, "the controller's look at it")
        begun = cluster.world.clock()
        preempt(cluster, ready.read_text(), notice)
        cluster.wait_for(lambda: driver.poll() is not None, 120, "an answer from elsewhere")
        assert driver.stdout is not None
        [line] = [line for line in driver.stdout if line.startswith("at ")]
        answered, gap = json.loads(line.removeprefix("at "))
        return Moved(answered - begun, gap)


def _noticed(cluster: Bed, name: str, notice: float) -> None:
    cluster.world.add(Preempt(notice=notice, name=name))


def _only_drained(cluster: Bed, name: str, notice: float) -> None:
    """The metadata server is silent: a drain is all that happens before the power is off."""
    cluster.controller.kill()
    cluster.world.add(Preempt(notice=0, name=name, at=notice))
    words(cluster, _DRAIN.format(address=cluster.address, seconds=notice))
