"""The expected-cost policy: for each option, when the step would end, what that and a machine cost.

An option's cost in dollars is the value of the time until the step's end, the chance that its
workflow misses its deadline after it, what a machine costs beside, and what others lose by it. The
cheapest option is taken. Its parameters are few and have meanings, and `rl.tuning` searches them:
that tuned policy is what any other has to beat. A neural policy starts here too: its score is the
negative of these costs plus a network's output whose last layer begins as zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from actors.orchestration.holding import PAUSE_SECONDS
from rl.guardrails import RESERVE_GB
from rl.simulator import Order
from rl.view import (
    ACTIONS,
    BUY,
    FIRST_MACHINE,
    FIRST_STOP,
    HOME,
    KEEP,
    MACHINES,
    PREWARM,
    WAIT,
    HomeView,
    MachineView,
    StepView,
    View,
)
from rl.weights import Weights

HOUR = 3600.0
REFUSED = math.inf


@dataclass(frozen=True, slots=True)
class GreedyParameters(Weights):
    """Weights of the costs; each is positive, and 1 or the written figure before any tuning.

    Attributes:
        idle_seconds: After which a machine without work is given back.
        wait_weight: Of the value of the time until the step's end.
        miss_weight: Of the charge for a missed deadline.
        risk: Of how far the end is, the share by which it may be wrong.
        tail_seconds: Of a new machine's time that nothing will use.
        shared: Part of a busy machine's time that a further step pays for.
        hazard_weight: Of what is expected to be lost when a machine is taken back.
        crowding: Of the time that steps at home lose to one more.
        optimism: Of the time until memory at home comes free.
        scarcity: Price of a dollar, beside itself, when all of the day's money is spoken for.
        prewarm: In starts of a machine, how early one is bought for a large step to come.
        slowdown: By which machines are believed slower than their kind says.
    """

    policy: ClassVar[str] = "greedy"
    idle_seconds: float = 240.0
    wait_weight: float = 1.0
    miss_weight: float = 1.0
    risk: float = 0.2
    tail_seconds: float = 150.0
    shared: float = 0.25
    hazard_weight: float = 1.0
    crowding: float = 1.0
    optimism: float = 1.0
    scarcity: float = 0.5
    prewarm: float = 0.5
    slowdown: float = 1.0


class Greedy:
    """The expected-cost policy.

    Args:
        parameters: Its weights.
        name: In reports.
        order: Which of the ready steps is asked about first.
    """

    def __init__(
        self,
        parameters: GreedyParameters | None = None,
        *,
        name: str = "greedy",
        order: Order = "urgent",
    ) -> None:
        self.name = name
        self.order: Order = order
        self.parameters = parameters or GreedyParameters()

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """The cheapest option; the first of equals."""
        costs = self.costs(view, mask)
        return min(range(ACTIONS), key=costs.__getitem__)

    def costs(self, view: View, mask: Sequence[bool]) -> list[float]:
        """USD of each action, infinite where it is refused: what a learned score starts from."""
        costs = [REFUSED] * ACTIONS
        if view.step is None:
            self._of_machines(view, mask, costs)
        else:
            self._of_step(view, view.step, mask, costs)
        return costs

    def _of_step(
        self, view: View, step: StepView, mask: Sequence[bool], costs: list[float]
    ) -> None:
        if mask[HOME]:
            costs[HOME] = self._home(view, step)
        for slot in range(MACHINES):
            machine = view.machines[slot]
            if mask[FIRST_MACHINE + slot] and machine is not None:
                costs[FIRST_MACHINE + slot] = self._machine(view, step, machine)
        if mask[BUY]:
            costs[BUY] = self._purchase(view, step)
        if mask[WAIT]:
            costs[WAIT] = self._wait(view, step)

    # what an end is worth

    def _ending_in(self, view: View, step: StepView, seconds: float) -> float:
        """USD of the time until a step's end, and of the deadline that may be missed after it."""
        p, money = self.parameters, view.money
        whole = seconds + step.after_seconds
        doubt = 20.0 + p.risk * whole
        late = max(-30.0, min(30.0, (whole - step.deadline_in) / doubt))
        miss = p.miss_weight * money.miss * step.priority / (1.0 + math.exp(-late))
        return p.wait_weight * money.hour_of_priority * step.priority * seconds / HOUR + miss

    def _dollars(self, view: View, seconds: float) -> float:
        """USD of a machine's seconds; more where little of the day's money is left."""
        return view.money.price_per_hour * seconds / HOUR * self.money_weight(view)

    def money_weight(self, view: View) -> float:
        """What a dollar for machines counts for, 1 or more: the day has so many."""
        money = view.money
        left = money.day_left - money.committed
        share = 1.0 - max(0.0, min(1.0, left / max(money.day_left, 1e-6)))
        return 1.0 + self.parameters.scarcity * share

    def _loss(self, view: View, step: StepView, seconds: float) -> float:
        """Expected seconds of work that are done twice when the machine is taken back."""
        repeated = 60.0 if step.checkpointable else 0.5 * seconds
        hazard = min(1.0, view.money.hazard_per_hour * seconds / HOUR)
        return self.parameters.hazard_weight * hazard * (repeated + view.money.boot_seconds)

    # options

    def _home(self, view: View, step: StepView) -> float:
        home = view.home
        rate = min(1.0, home.cores / (home.cores_wanted + step.cores))
        before = min(1.0, home.cores / home.cores_wanted) if home.cores_wanted else 1.0
        seconds = (step.home_seconds + step.cold_home) / rate
        slower = 1.0 - rate / before
        weights = sum(run.priority * min(run.seconds_left, seconds) for run in home.runs)
        crowd = self.parameters.crowding * slower * weights / HOUR
        return self._ending_in(view, step, seconds) + view.money.hour_of_priority * crowd

    def _on_cloud(self, step: StepView, cold: bool) -> float:
        work = step.cloud_seconds * self.parameters.slowdown
        return work + step.transfer_seconds + (step.cold_cloud if cold else 0.0)

    def _machine(self, view: View, step: StepView, machine: MachineView) -> float:
        work = self._on_cloud(step, step.kind not in machine.warm)
        rate = min(1.0, machine.cores / (machine.cores_wanted + step.cores))
        seconds = machine.ready_in + work / rate
        longer = max(0.0, seconds - machine.busy_seconds)
        if machine.busy_seconds > 0:
            within = seconds - longer
            paid = longer + self.parameters.shared * within * min(1.0, 1.0 / rate - 1.0)
        else:
            paid = seconds
        end = seconds + self._loss(view, step, seconds)
        return self._ending_in(view, step, end) + self._dollars(view, paid)

    def _purchase(self, view: View, step: StepView) -> float:
        boot = view.money.boot_seconds
        work = self._on_cloud(step, cold=True)
        seconds = boot + work
        end = seconds + self._loss(view, step, seconds)
        paid = seconds + self.parameters.tail_seconds
        return self._ending_in(view, step, end) + self._dollars(view, paid)

    def _wait(self, view: View, step: StepView) -> float:
        """As if it then ran at home, or, where it never can, on the first machine.

        What comes free is noticed a moment later: steps of milliseconds had better not wait.
        """
        if step.memory_p95_gb <= view.home.room_gb - RESERVE_GB:
            wait = self._until_memory(view.home, step) + PAUSE_SECONDS
            return self._ending_in(view, step, wait + step.home_seconds + step.cold_home)
        # a machine without work would be an option of its own
        busy = [one.busy_seconds for one in view.machines if one and one.busy_seconds > 0]
        wait = min(busy, default=900.0) * self.parameters.optimism + PAUSE_SECONDS
        work = self._on_cloud(step, cold=False)
        return self._ending_in(view, step, wait + work) + self._dollars(view, work)

    def _until_memory(self, home: HomeView, step: StepView) -> float:
        free = home.free_gb - RESERVE_GB
        last = 60.0
        for run in sorted(home.runs, key=lambda run: run.seconds_left):
            free += run.memory_gb
            last = run.seconds_left
            if free >= step.memory_p95_gb:
                break
        else:
            last += 600.0  # the user has to let go of some
        return last * self.parameters.optimism

    # machines

    def _of_machines(self, view: View, mask: Sequence[bool], costs: list[float]) -> None:
        """Keeping costs nothing here; what is better is below 0, what is worse above."""
        p = self.parameters
        costs[KEEP] = 0.0
        for slot in range(MACHINES):
            machine = view.machines[slot]
            if mask[FIRST_STOP + slot] and machine is not None:
                longer = machine.idle_seconds - p.idle_seconds
                soon = view.large_in < p.prewarm * view.money.boot_seconds
                costs[FIRST_STOP + slot] = self._dollars(view, 60.0) if soon else -longer / HOUR
        if mask[PREWARM]:
            has_free = any(one is not None and one.busy_seconds <= 0 for one in view.machines)
            early = p.prewarm * view.money.boot_seconds - view.large_in
            costs[PREWARM] = 1.0 if has_free or early <= 0 else -early / HOUR
