"""What is believed of the steps and places of the running system, as parts of a view."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.situation import HomeFacts, MachineFacts, Plan, RunFacts, StepFacts
from rl.calibration.fit import CLOUD, HOME, Fit, LogNormal
from rl.remaining import seconds_left
from rl.view import HomeView, MachineView, RunView, StepView, WaitingView
from rl.view_parts import Bound, booting_view, run_view, working_view
from rl.work import KINDS

KIND = "function"
"""Of all steps that are routed: services, agents and jobs find their own places."""
PRIORITIES: Mapping[str, float] = {"critical": 2.0, "high": 1.5, "normal": 1.0, "low": 0.7}
"""Weight of a workflow's time, where the simulator's lie between 0.7 and 1.5."""
NO_DEADLINE_SECONDS = 4 * 3600.0
"""A workflow without a deadline counts as having one so far away that it is never missed."""
MEMORY_GROWTH, MOST_GROWTHS = 1.5, 2
"""Of a step's memory, each time that it ran out of it; no more often, or nothing would fit."""
TRANSFER_SECONDS = 0.5
_SETTLING_SECONDS, _SETTLING_SHARE = 15.0, 0.5
"""A step that runs for less than that, and that share of its believed time, may hold more yet."""
_MOST_KNOWN = 4096


@dataclass(frozen=True, slots=True)
class Believed:
    """Of one step.

    Attributes:
        memory_mean_gb: That it holds.
        memory_p95_gb: That it stays below in 19 of 20 cases.
        home: Seconds at home; half of such steps take less.
        cloud: The same on a machine.
        sigma: Deviation of the logarithm of the time at home.
        cloud_sigma: On a machine.
    """

    memory_mean_gb: float
    memory_p95_gb: float
    home: float
    cloud: float
    sigma: float
    cloud_sigma: float


class LiveBeliefs:
    """By a fit.

    Args:
        fit: Of durations and memory.
    """

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        self._kind = KINDS[KIND]
        self._known: dict[tuple[str, float | None, float | None, int], Believed] = {}

    def of(self, step: StepFacts | RunFacts) -> Believed:
        """What is believed of a step.

        Raises:
            DataError: a fact is no number.
        """
        key = (step.target, step.expected_seconds, step.memory_gb, step.out_of_memory)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[key] = self._believed(*key)
        return found

    def _believed(
        self, target: str, expected: float | None, stated: float | None, out_of_memory: int
    ) -> Believed:
        memory = _grown(self.fit.memory_gb(target, stated), out_of_memory)
        home = self.fit.seconds(target, HOME, expected)
        cloud = self.fit.seconds(target, CLOUD, expected)
        return Believed(memory.mean, memory.p95, home.median, cloud.median, home.sigma, cloud.sigma)

    def seconds_on_path(self, plan: Plan) -> list[float]:
        """Of each step of a plan, at home."""
        return [
            self.fit.seconds(target, HOME, expected).median
            for target, expected in zip(plan.targets, plan.expected, strict=True)
        ]

    def memory_of(self, plan: Plan) -> list[float]:
        """GB that each step of a plan stays below in 19 of 20 cases; 0 of those elsewhere."""
        stated = plan.memory_gb or (None,) * len(plan.targets)
        return [
            0.0 if memory == 0 else self.fit.memory_gb(target, memory).p95
            for target, memory in zip(plan.targets, stated, strict=True)
        ]

    # steps

    def step(
        self, step: StepFacts, number: int, after: float, beside: float, at: float
    ) -> StepView:
        """The step that a place is sought for; see `StepView`."""
        own, plan = self.of(step), step.ready.plan
        return StepView(
            number=number,
            kind=KIND,
            memory_mean_gb=own.memory_mean_gb,
            memory_p95_gb=own.memory_p95_gb,
            home_seconds=own.home,
            cloud_seconds=own.cloud,
            duration_sigma=own.sigma,
            cold_home=0.0,
            cold_cloud=self._kind.cold_cloud,
            cores=self._kind.cores,
            transfer_seconds=TRANSFER_SECONDS,
            checkpointable=False,
            private=_is_private(step),
            priority=PRIORITIES[step.priority],
            deadline_in=deadline_in(step, at),
            after_seconds=after,
            waited=max(0.0, at - step.ready.since),
            spot_losses=step.losses,
            fan_out=0 if plan is None else len(plan.dependents[step.ready.index]),
            beside_seconds=beside,
        )

    def waiting(
        self, step: StepFacts, number: int, after: float, at: float, now: float
    ) -> WaitingView:
        """A step as the others see it.

        Args:
            step: That waits.
            number: Of it in this view.
            after: Seconds from its end to its workflow's.
            at: Unix seconds.
            now: The same, after midnight.
        """
        own = self.of(step)
        return WaitingView(
            number,
            own.memory_p95_gb,
            own.home,
            own.cloud,
            after,
            PRIORITIES[step.priority],
            now + deadline_in(step, at),
            _is_private(step),
        )

    def run(self, run: RunFacts, place: str, at: float, slowness: float) -> RunView:
        """A step that has a place.

        Args:
            run: It.
            place: `local` or `spot`.
            at: Unix seconds.
            slowness: Seconds that a second of work takes there now, and is taken to have taken.
        """
        own = self.of(run)
        worked = (at - run.since) / slowness if run.has_begun else 0.0
        if place == HOME:
            work = seconds_left(own.home, worked, own.sigma)
        else:
            work = seconds_left(own.cloud, worked, own.cloud_sigma)
        return run_view(
            work, slowness, own.memory_p95_gb, PRIORITIES[run.priority], self._kind.cores
        )

    # places

    def home(self, home: HomeFacts, at: float) -> HomeView:
        """The head."""
        wanted = self._kind.cores * len(home.runs)
        slowness = max(1.0, wanted / home.cores)
        runs = [self.run(run, HOME, at, slowness) for run in home.runs]
        believed = sum(run.memory_gb for run in runs)
        held = self._settled(home, runs, at) if home.held_gb is None else _measured(home, runs)
        room = min(home.available_gb + held, home.memory_gb)
        return HomeView(home.memory_gb, room, room - believed, home.cores, wanted, runs, KIND)

    def _settled(self, home: HomeFacts, views: Sequence[RunView], at: float) -> float:
        """GB of runs that are taken to hold all that they will, where nobody has measured it."""
        found = 0.0
        for view, run in zip(views, home.runs, strict=True):
            if at - run.since > max(_SETTLING_SECONDS, _SETTLING_SHARE * self.of(run).home):
                found += view.memory_gb
        return found

    def machine(self, machine: MachineFacts, boot_seconds: float, at: float) -> MachineView:
        """A machine, of which nobody has said yet whether it is warm."""
        if machine.state == "booting":
            bound = [self._bound(run) for run in machine.runs]
            since = at - machine.since
            return booting_view(
                "booting", since, boot_seconds, machine.memory_gb, machine.cores, bound, set()
            )
        wanted = self._kind.cores * len(machine.runs)
        slowness = max(1.0, wanted / machine.cores)
        runs = [self._away(run, machine, at, slowness) for run in machine.runs]
        held = sum(run.memory_gb for run in runs)
        idle = 0.0 if machine.idle_since is None else max(at - machine.idle_since, 0.0)
        free = min(machine.free_gb, machine.memory_gb - held)
        return working_view(
            machine.state,
            free,
            machine.cores,
            wanted,
            runs,
            idle if machine.state == "ready" else 0.0,
            set(),
        )

    def _bound(self, run: RunFacts) -> Bound:
        own, kind = self.of(run), self._kind
        return Bound(kind.cores, own.memory_p95_gb, kind.cold_cloud + own.cloud)

    def _away(self, run: RunFacts, machine: MachineFacts, at: float, slowness: float) -> RunView:
        found = self.run(run, CLOUD, at, slowness)
        if run.has_begun:
            return found
        is_warm = run.target in machine.done
        before = TRANSFER_SECONDS + (0.0 if is_warm else self._kind.cold_cloud)
        work = found.work_seconds + before
        return run_view(work, slowness, found.memory_gb, found.priority, found.cores)


def deadline_in(step: StepFacts, at: float) -> float:
    """Seconds until its workflow's; far away where it has none."""
    left = NO_DEADLINE_SECONDS if step.deadline is None else step.deadline - at
    return min(left, NO_DEADLINE_SECONDS)


def _is_private(step: StepFacts) -> bool:
    return step.place in ("private", "local")


def _grown(memory: LogNormal, out_of_memory: int) -> LogNormal:
    """What is believed of a step that was ended for want of memory: more than of its function."""
    growth = math.log(MEMORY_GROWTH) * min(out_of_memory, MOST_GROWTHS)
    return LogNormal(memory.mu + growth, memory.sigma, memory.count)


def _measured(home: HomeFacts, views: Sequence[RunView]) -> float:
    """GB that runs hold: of each function no more than is believed, so that none frees any."""
    assert home.held_gb is not None
    believed: dict[str, float] = {}
    for view, run in zip(views, home.runs, strict=True):
        believed[run.target] = believed.get(run.target, 0.0) + view.memory_gb
    return sum(min(home.held_gb.get(target, 0.0), most) for target, most in believed.items())
