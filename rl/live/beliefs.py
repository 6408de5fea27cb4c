"""What is believed of steps, places and money of the running system, as parts of a view."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from actors.situation import (
    EndedFacts,
    HomeFacts,
    MachineFacts,
    MoneyFacts,
    Plan,
    RunFacts,
    StepFacts,
)
from rl.calibration.fit import CLOUD, HOME, Fit, LogNormal
from rl.pace import Pace
from rl.regime import Costs
from rl.remaining import seconds_left
from rl.view import HomeView, MachineView, MoneyView, RunView, StepView, WaitingView
from rl.view_parts import (
    Bound,
    boot_mean,
    booting_view,
    committed_dollars,
    hazard_mean,
    run_view,
    working_view,
)
from rl.work import KINDS

KIND = "function"
"""Of all steps that are routed: services, agents and jobs find their own places."""
PRIORITIES: Mapping[str, float] = {"critical": 2.0, "high": 1.5, "normal": 1.0, "low": 0.7}
"""Weight of a workflow's time, where the simulator's lie between 0.7 and 1.5."""
NO_DEADLINE_SECONDS = 4 * 3600.0
"""A workflow without a deadline counts as having one so far away that it is never missed."""
NO_CAP_DOLLARS = 1000.0
MEMORY_GROWTH, MOST_GROWTHS = 1.5, 2
"""Of a step's memory, each time that it ran out of it; no more often, or nothing would fit."""
TRANSFER_SECONDS = 0.5
_SETTLING_SECONDS, _SETTLING_SHARE = 15.0, 0.5
"""A step that runs for less than that, and that share of its believed time, may hold more yet."""
_UNPAID = MoneyFacts(0.0638, day_cap=0.0, month_cap=0.0)
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
        costs: What waiting and missed deadlines are worth.
    """

    def __init__(self, fit: Fit, costs: Costs) -> None:
        self.fit = fit
        self._costs = costs
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

    # money

    def money(
        self,
        facts: MoneyFacts | None,
        machines: Iterable[MachineView | None],
        pace: float,
        at: float,
    ) -> MoneyView:
        """Money and risk; nothing to spend where nobody has told."""
        facts = facts or _UNPAID
        month = min(facts.month_left, NO_CAP_DOLLARS)
        since = math.inf if facts.refused_at is None else max(at - facts.refused_at, 0.0)
        return MoneyView(
            price_per_hour=facts.price_per_hour,
            day_left=min(facts.day_left, month),
            month_left=month,
            committed=committed_dollars(machines, facts.price_per_hour),
            hazard_per_hour=hazard_mean(facts.losses, facts.exposed_hours),
            boot_seconds=boot_mean(facts.boots),
            stocked_out_seconds=since,
            hour_of_priority=self._costs.hour_of_priority,
            miss=self._costs.miss,
            day_cap=math.inf if facts.day_cap is None else facts.day_cap,
            cloud_pace=pace,
        )

    def pace(self, ended: Iterable[EndedFacts], since: float) -> float:
        """Times as long as believed steps took on machines; see `rl.pace`.

        Args:
            ended: Steps there.
            since: Unix seconds; of those before nothing is taken, as the day was another.
        """
        pace = Pace()
        for one in ended:
            if one.at >= since:
                believed = self.fit.seconds(one.target, CLOUD, one.expected_seconds)
                pace.saw(one.seconds, believed.median, believed.sigma)
        return pace.mean()


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
