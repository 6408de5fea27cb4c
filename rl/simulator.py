"""A day, event by event, with a policy asked where something is to be decided.

    simulation = Simulation(day)
    while (decision := simulation.next_decision()) is not None:
        simulation.take(policy.choose(decision.view, decision.mask))
    outcome = simulation.outcome()

Decisions come on events alone: a workflow came, a step ended, a machine is ready or gone, memory
came free, a day's money began. Steps that are ready are asked about one after the other, the most
urgent first; one that is told to wait is asked about again when something has changed. Steps at a
place share its cores (processor sharing), the head slows down when it swaps and ends the last step
when its swap is full; machines start, fail to start and are taken back as the day says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rl.guardrails import Limits, checked, mask_of, refusals
from rl.mechanics import Mechanics
from rl.outcome import Outcome, outcome_of
from rl.sites import State, Task
from rl.urgency import Urgency
from rl.view import (
    BUY,
    FIRST_MACHINE,
    FIRST_STOP,
    HOME,
    KEEP,
    PREWARM,
    WAIT,
    View,
)
from rl.views import Beliefs, view_of
from rl.work import Day

Order = Literal["urgent", "fifo"] | Urgency
"""The most urgent first, as `Urgency()` or another one has it, or who came first."""
_URGENT = Urgency()


class Policy(Protocol):
    """Chooses an action of `rl.view`."""

    name: str
    order: Order

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """One of the actions whose mask is true."""
        ...


@dataclass(slots=True)
class Decision:
    """What is asked.

    Attributes:
        reasons: Of each action why it is refused; None where it is allowed.
        task: The step that it is about; None when it is about the machines.
    """

    view: View
    reasons: list[str | None]
    task: Task | None

    @property
    def mask(self) -> list[bool]:
        """True where an action is allowed."""
        return mask_of(self.reasons)


class Simulation:
    """One run of one day.

    Args:
        day: Which.
        order: Which of the steps that are ready is asked about first.
        limits: The guardrails' figures; the regime's own where it is left out.
        clairvoyant: Whether views hold the truth where a policy has beliefs.
        ranks: Of steps, by number: added to the logarithm of their urgency.
        month_spent: The same of the day, where another is wanted.
        mechanics: What a day is run by: one that keeps a record, for a picture of it.
    """

    def __init__(
        self,
        day: Day,
        *,
        order: Order = "urgent",
        limits: Limits | None = None,
        clairvoyant: bool = False,
        ranks: Mapping[int, float] | None = None,
        month_spent: float | None = None,
        mechanics: Callable[[Day, float], Mechanics] = Mechanics,
    ) -> None:
        spot = day.regime.spot
        self.day = day
        self.order = order
        self.limits = limits or Limits(machine_gb=spot.memory_gb, machines=spot.machines)
        spent = day.month_spent if month_spent is None else month_spent
        self.world = mechanics(day, spent)
        self.beliefs = Beliefs(self.world, clairvoyant)
        self.decisions = 0
        self._ranks = ranks or {}
        self._queue: list[Task] = []
        self._current: Decision | None = None

    def next_decision(self, until: float = math.inf) -> Decision | None:
        """Let time pass until something is to be decided.

        Args:
            until: Seconds after midnight; what comes later does not happen yet.

        Returns:
            None at the end of the day, or when nothing is to be decided until then.
        """
        assert self._current is None, "the last decision was not taken"
        while True:
            while self._queue:
                task = self._queue.pop()
                if task.state is State.WAITING and self._ask(task):
                    return self._current
            if self._concerns_machines() and self._ask(None):
                return self._current
            if not self.world.step(until):
                return None
            self._queue = self._in_order()

    @property
    def asked(self) -> Decision | None:
        """The decision that was asked for and is not taken yet."""
        return self._current

    def take(self, action: int, policy: str = "policy") -> None:
        """Do what was decided.

        Raises:
            SettingsError: the action is refused.
        """
        decision, self._current = self._current, None
        assert decision is not None, "nothing was asked"
        checked(action, decision.reasons, policy)
        self.decisions += 1
        world, task = self.world, decision.task
        if task is None:
            if action == PREWARM:
                world.buy()
            elif action != KEEP:
                world.stop(action - FIRST_STOP)
        elif action == HOME:
            world.start_at_home(task)
        elif action == WAIT:
            world.hold(task, self.limits.starvation_seconds)
        else:
            slot = world.buy().slot if action == BUY else action - FIRST_MACHINE
            world.bind(task, slot)

    def outcome(self) -> Outcome:
        """What the day cost, once it is over."""
        return outcome_of(self.day, self.world, self.decisions)

    def _ask(self, task: Task | None) -> bool:
        """Prepare a decision; False where there is but one thing to do, which is done."""
        view = view_of(self.world, self.beliefs, task)
        reasons = refusals(view, self.limits)
        if sum(reason is None for reason in reasons) == 1:
            if task is None:
                return False
            if reasons[WAIT] is None:
                self.world.hold(task, self.limits.starvation_seconds)
                return False
        self._current = Decision(view, reasons, task)
        return True

    def _concerns_machines(self) -> bool:
        """Whether what has happened may be a reason to buy or to stop one."""
        world = self.world
        asks = world.ask_about_machines
        if world.steps_moved and not asks:
            asks = self.beliefs.large_in() < math.inf  # sooner or later than it was believed
        world.ask_about_machines = world.steps_moved = False
        return asks

    def _in_order(self) -> list[Task]:
        """Steps to ask about, the first last."""
        tasks = [task for task in self.world.waiting if not task.is_held]
        if self.order == "fifo":
            return sorted(tasks, key=lambda task: (-task.ready_at, -task.step.number))
        if len(tasks) < 2:
            return tasks
        now, ranks = self.world.now, self._ranks
        urgency = self.order if isinstance(self.order, Urgency) else _URGENT
        value = {one.number: urgency.of(one, now) for one in self.beliefs.others()}
        for number in value.keys() & ranks.keys():
            value[number] *= math.exp(ranks[number])
        return sorted(tasks, key=lambda task: (value[task.step.number], -task.step.number))


def simulate(day: Day, policy: Policy, **options: Any) -> Outcome:
    """Run a day with a policy.

    Args:
        day: Which.
        policy: That is asked.
        **options: See `Simulation`.

    Raises:
        SettingsError: the policy takes what is refused.
    """
    simulation = Simulation(day, order=policy.order, **options)
    while (decision := simulation.next_decision()) is not None:
        simulation.take(policy.choose(decision.view, decision.mask), policy.name)
    return simulation.outcome()
