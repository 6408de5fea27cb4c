"""Many workflows of short steps at once: what a routing policy that weighs each step adds.

The orchestrator, its store, router and log are the real ones; steps only take time, on so many
cores, and the head has memory for some at once.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.decision_log import DecisionLog
from actors.journal import Journal
from actors.lease import wait_for_lease
from actors.orchestrator import Orchestrator
from actors.results import Results
from actors.router import Router
from actors.routing import Option, PlacementPolicy, RouterPolicy
from actors.situation import HomeFacts, MachineFacts, MoneyFacts, SituationPolicy
from actors.steps.executor import StepExecutor
from actors.steps.kinds import Done
from actors.workflow.tasks import StepTask
from benchmarks.actors_messages import THEME
from benchmarks.actors_workflows import chain
from benchmarks.harness import Options, Row, Samples, interleave
from ironcliw.store import Store
from rl.policy import NumpyPolicy

_CORES, _AVAILABLE_GB = 2, 10.0
_STEP_SECONDS, _STEP_BYTES = 0.005, 150_000_000
_STEPS = 5
_MONEY = MoneyFacts(0.08, day_cap=0.4, month_cap=5.0)
_LONGEST_SECONDS = 300.0


def burst_rows(options: Options) -> list[Row]:
    """Bursts of workflows, by the tuned policy and by the rules of placement."""
    rounds = options.rounds or (3 if options.quick else 7)
    count = 200
    found = interleave(
        {
            "tuned": lambda: _burst(lambda folder: NumpyPolicy(folder, exploration=0.03), count),
            "rules": lambda: _burst(lambda folder: PlacementPolicy(), count),
        },
        rounds,
    )
    name = f"{count} workflows of {_STEPS} steps of 5 ms at once, by the tuned policy"
    peers = {"by the rules of placement": Samples.of(found["rules"])}
    return [Row(THEME, name, "s", Samples.of(found["tuned"]), peers)]


class _Head:
    """What a router is told: a head of 16 GB, and a cloud with no machine yet."""

    age = 0.0
    has_cloud = True
    most_machines = 3
    new_machine = MachineFacts("", "booting", 0.0, 30.0, 30.0, 4.0)

    def options(self) -> Sequence[Option]:
        return (Option("local"), Option("spot"))

    def memory(self) -> tuple[float, float]:
        return _AVAILABLE_GB, 40.0

    def home(self) -> HomeFacts:
        return HomeFacts(16.0, _AVAILABLE_GB, float(_CORES))

    def machines(self) -> Sequence[MachineFacts]:
        return ()

    def money(self) -> MoneyFacts:
        return _MONEY


class _Timed:
    """Steps that take a core for some milliseconds, whichever place they have."""

    def __init__(self) -> None:
        self._cores = asyncio.Semaphore(_CORES)

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        async with self._cores:
            started("head")
            await asyncio.sleep(_STEP_SECONDS)
        return Done.of(
            {}, task, node="head", place=place, seconds=_STEP_SECONDS, peak_bytes=_STEP_BYTES
        )


def _burst(policy: Callable[[Path], RouterPolicy | SituationPolicy], count: int) -> float:
    """Seconds from the first submission to the last end."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        return asyncio.run(_timed(Path(folder), policy(Path(folder)), count))


async def _timed(folder: Path, policy: RouterPolicy | SituationPolicy, count: int) -> float:
    with Store(f"sqlite:///{folder / 'state.db'}") as store:
        store.migrate()
        journal = Journal(store, lease=await wait_for_lease(store, "actors", "benchmark"))
        head, log = _Head(), DecisionLog(journal, 30.0, enabled=True)
        router = Router(policy, head, head, log)
        results = Results(str(folder / "results"), 1000, 1000)
        executor = StepExecutor({"function": _Timed()}, results, router, head, log, home="head")
        made = Orchestrator(journal, executor, gate=executor, committed=router.note_events)
        router.waiting = lambda: made.queued
        try:
            await made.start()
            async with asyncio.timeout(_LONGEST_SECONDS):
                begun = time.perf_counter()
                sent = await asyncio.gather(*(made.submit(chain(_STEPS)) for _ in range(count)))
                ends = await asyncio.gather(*(made.wait(one.id) for one in sent))
                seconds = time.perf_counter() - begun
            assert all(one.status == "completed" for one in ends)
        finally:
            await made.close()
            await journal.close()
    return seconds
