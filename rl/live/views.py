"""Builds what a policy sees from the running system.

The same `View` as the simulator's, made of the same parts (`rl.view_parts`), behind the same
guardrails; what is not possible here is in `rl.live.refused`. What waits or runs elsewhere is seen
as far as the router knows it: function steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from actors.situation import MachineFacts, RunFacts, Situation, StepFacts
from ironcliw.errors import DataError
from rl.calibration.fit import Fit
from rl.guardrails import RESERVE_GB
from rl.live.beliefs import KIND, LiveBeliefs
from rl.live.coming import Plans, first_large
from rl.live.money import money_view, pace_of
from rl.live.refused import refused
from rl.regime import Costs
from rl.view import (
    MACHINES,
    HomeView,
    MachineView,
    MoneyView,
    RunView,
    StepView,
    View,
    WaitingView,
)
from rl.view_parts import boot_mean


@dataclass(frozen=True, slots=True)
class LiveView:
    """A decision of the running system.

    Attributes:
        view: As the simulator builds it.
        reasons: Of each action why it is refused; None where it is allowed. One always is.
        nodes: Of each slot, Ray's id; empty where the machine starts, or there is none.
        forced: Why an action is allowed that the guardrails refuse; empty: none is.
    """

    view: View
    reasons: list[str | None]
    nodes: tuple[str, ...]
    forced: str = ""

    @property
    def mask(self) -> list[bool]:
        """True where an action is allowed."""
        return [reason is None for reason in self.reasons]


Run = tuple[RunFacts, float]
"""A step that has a place, and the seconds that it has left."""


@dataclass(slots=True)
class _Moment:
    """What the decisions of one moment share, and the facts that it was made from.

    Attributes:
        of: A situation of that moment.
        slots: The machines that are told apart, the first three.
        others: What waits; a step's number is its place in the situation.
        told: What waits, in the same order.
        runs: All that has a place.
        large_in: See `View`.
    """

    of: Situation
    now: float
    home: HomeView
    slots: Sequence[MachineFacts]
    machines: list[MachineView]
    money: MoneyView
    others: list[WaitingView]
    numbers: dict[tuple[str, str, int | None], int]
    told: list[StepFacts]
    runs: list[Run]
    large_in: float

    def is_of(self, other: Situation) -> bool:
        """Whether nothing has changed since that a view is made of, but for the step."""
        of = self.of
        return (
            of.at == other.at
            and of.home is other.home
            and of.machines is other.machines
            and of.money is other.money
            and of.others is other.others
            and of.ended is other.ended
        )


class LiveViews:
    """Builds them.

    Args:
        fit: What is believed of durations and memory.
        costs: What waiting and missed deadlines are worth.
    """

    def __init__(self, fit: Fit, costs: Costs | None = None) -> None:
        self.fit = fit
        self._costs = costs or Costs()
        self._beliefs = LiveBeliefs(fit)
        self._plans = Plans(self._beliefs)
        self._moment: _Moment | None = None

    def build(self, situation: Situation) -> LiveView:
        """What is seen of a situation.

        Raises:
            DataError: a fact is no number.
        """
        moment = self._moment
        if moment is None or not moment.is_of(situation):
            moment = self._moment = self._seen(situation)
        step = self._step(situation, moment)
        view = View(
            now=moment.now,
            step=step,
            home=moment.home,
            machines=_slots_of(moment, situation.step.target),
            money=moment.money,
            waiting=situation.waiting,
            arrivals_half_hour=situation.arrivals,
            large_in=moment.large_in,
            others=moment.others,
        )
        reasons, forced = refused(view, situation)
        return LiveView(view, reasons, tuple(one.node for one in moment.slots), forced)

    def waiting(self, steps: Sequence[StepFacts], at: float) -> tuple[list[WaitingView], float]:
        """(steps as the others see them, numbered as they come; seconds after midnight).

        One of which a fact is no number is left out: that is told when it is asked about.
        """
        now, found = _after_midnight(at), list[WaitingView]()
        for number, step in enumerate(steps):
            try:
                after = self._after_of(step)
                found.append(self._beliefs.waiting(step, number, after, at, now))
            except DataError:
                continue
        return found, now

    def _seen(self, situation: Situation) -> _Moment:
        at, beliefs = situation.at, self._beliefs
        home = beliefs.home(situation.home, at)
        ordered = _in_order(situation.machines)
        boot = boot_mean(() if situation.money is None else situation.money.boots)
        machines = [beliefs.machine(one, boot, at) for one in ordered]
        now = _after_midnight(at)
        pace = pace_of(situation.ended, self.fit, at - now)
        others, _ = self.waiting(situation.others, at)
        told = [situation.others[one.number] for one in others]
        runs = _runs(situation.home.runs, home.runs, ordered, machines)
        return _Moment(
            situation,
            now,
            home,
            ordered[:MACHINES],
            machines[:MACHINES],
            money_view(situation.money, machines[:MACHINES], pace, self._costs, at),
            others,
            {_key(one): view.number for one, view in zip(told, others, strict=True)},
            told,
            runs,
            self._large_in(runs, told, others, home),
        )

    def _large_in(
        self,
        runs: Sequence[Run],
        told: Sequence[StepFacts],
        others: Sequence[WaitingView],
        home: HomeView,
    ) -> float:
        active = [(run.workflow_id, run.ready, seconds) for run, seconds in runs]
        active += [
            (step.workflow_id, step.ready, view.home_seconds)
            for step, view in zip(told, others, strict=True)
        ]
        return first_large(active, self._plans, home.room_gb - RESERVE_GB)

    def _step(self, situation: Situation, moment: _Moment) -> StepView:
        step = situation.step
        number = moment.numbers.get(_key(step), len(situation.others))
        beside = self._beside(step, number, moment)
        return self._beliefs.step(step, number, self._after_of(step), beside, situation.at)

    def _beside(self, step: StepFacts, number: int, moment: _Moment) -> float:
        """See `StepView.beside_seconds`."""
        found, own = 0.0, step.workflow_id
        for run, seconds in moment.runs:
            if run.workflow_id == own:
                found = max(found, seconds + self._after_of(run))
        for other, waits in zip(moment.told, moment.others, strict=True):
            if other.workflow_id == own and waits.number != number:
                found = max(found, waits.home_seconds + waits.after_seconds)
        return found

    def _after_of(self, step: StepFacts | RunFacts) -> float:
        """Believed seconds from a step's end to the workflow's."""
        ready = step.ready
        if ready is None or ready.plan is None:
            return 0.0
        return self._plans.of(ready.plan).after[ready.index]


def _key(step: StepFacts) -> tuple[str, str, int | None]:
    return step.workflow_id, step.step, step.item


def _runs(
    local: Sequence[RunFacts],
    at_home: Sequence[RunView],
    machines: Sequence[MachineFacts],
    seen: Sequence[MachineView],
) -> list[Run]:
    found = [(run, view.seconds_left) for run, view in zip(local, at_home, strict=True)]
    for machine, view in zip(machines, seen, strict=True):
        if view.runs:
            ends = (one.seconds_left for one in view.runs)
            found += zip(machine.runs, ends, strict=True)
        else:  # they begin once it is ready
            found += ((run, view.busy_seconds) for run in machine.runs)
    return found


def _slots_of(moment: _Moment, target: str) -> list[MachineView | None]:
    """The machines for a step: what has run on one, or is on its way, is loaded there."""
    found: list[MachineView | None] = []
    for facts, view in zip(moment.slots, moment.machines, strict=True):
        is_warm = target in facts.done or any(run.target == target for run in facts.runs)
        found.append(replace(view, warm={KIND}) if is_warm else view)
    return found + [None] * (MACHINES - len(found))


def _after_midnight(at: float) -> float:
    """Seconds of local time: the simulator's days are those of the head's user."""
    local = time.localtime(at)
    return 3600.0 * local.tm_hour + 60.0 * local.tm_min + local.tm_sec + at % 1.0


def _in_order(machines: Iterable[MachineFacts]) -> list[MachineFacts]:
    """Those that take steps, with the most room, before others: three are told apart."""
    rank = {"ready": 0, "booting": 1, "leaving": 2}
    return sorted(machines, key=lambda one: (rank[one.state], -one.free_gb, one.node))
