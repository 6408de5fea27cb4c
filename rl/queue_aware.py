"""The queue-aware policy: expected costs that know who else waits, what runs, and what is spent.

It decides as the expected-cost policy does (`rl.greedy`: for each option the value of the time
until the step's end, the chance of a missed deadline, dollars, what others lose), and adds what a
day with more work than places turns on: in which order steps go, how long those ahead will hold the
memory that is waited for, that a step beside a longer one delays nobody, that the head's memory has
a price while others wait for it, that money spent in the morning is gone in the evening.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from actors.orchestration.holding import PAUSE_SECONDS
from rl.guardrails import RESERVE_GB
from rl.look_ahead import MOST, ends_of_others
from rl.queue_parameters import QueueParameters
from rl.sharing import shared_seconds, until_free
from rl.simulator import Order
from rl.urgency import Urgency
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
    MachineView,
    StepView,
    View,
    WaitingView,
)

HOUR = 3600.0
NAME = "queue-aware"
_MORNING, _WORKING_HOURS = 8.0, 15.0
_STOCK_SECONDS = 1200.0  # after which a refusal tells little
_REFUSAL_SECONDS = 45.0  # until one is heard
_NEAR = 0.05  # USD over the cheapest, within which an option is looked at again
_NO_MACHINE_SECONDS = 900.0  # to wait for one where none works


def _less_urgent(pair: tuple[float, WaitingView]) -> float:
    return -pair[0]


class QueueAware:
    """The policy.

    Args:
        parameters: Its weights.
        name: In reports.
    """

    def __init__(self, parameters: QueueParameters | None = None, *, name: str = NAME) -> None:
        self.name = name
        self.parameters = p = parameters or QueueParameters()
        self._urgency = Urgency(
            p.order_priority, p.order_left, p.order_size, p.order_deadline, p.order_width
        )
        self.order: Order = self._urgency
        self._known: tuple[Sequence[WaitingView], float, list[float]] = ((), 0.0, [])

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """The cheapest option; the first of equals."""
        costs = self.costs(view, mask)
        return min(range(ACTIONS), key=costs.__getitem__)

    def costs(self, view: View, mask: Sequence[bool]) -> list[float]:
        """USD of each action, infinite where it is refused."""
        costs = [math.inf] * ACTIONS
        if view.step is None:
            self._of_machines(view, mask, costs)
            return costs
        step = view.step
        price = self._price(view)
        if mask[HOME]:
            costs[HOME] = self._home(view, step)
        for slot in range(MACHINES):
            machine = view.machines[slot]
            if mask[FIRST_MACHINE + slot] and machine is not None:
                costs[FIRST_MACHINE + slot] = self._machine(view, step, machine, price)
        if mask[BUY]:
            costs[BUY] = self._purchase(view, step, price)
        if mask[WAIT]:
            costs[WAIT] = self._wait(view, step, price)
        self._look_ahead(view, step, costs)
        return costs

    def _look_ahead(self, view: View, step: StepView, costs: list[float]) -> None:
        """Add what the others that wait would lose by each option that is near the cheapest."""
        p = self.parameters
        most = min(costs) + _NEAR
        near = [action for action in range(KEEP) if costs[action] <= most]
        if len(near) < 2 or len(view.others) < 2:
            return
        ranked = sorted(zip(self._urgencies(view), view.others, strict=True), key=_less_urgent)
        others = [one for _, one in ranked if one.number != step.number]
        del others[MOST:]
        found = {}
        for action in near:
            ends = ends_of_others(view, step, action, others)
            worth = sum(one.priority * end for one, end in zip(others, ends, strict=True))
            found[action] = p.look_ahead * view.money.hour_of_priority * worth / HOUR
        least = min(found.values())
        for action, lost in found.items():
            costs[action] += lost - least

    # what an end is worth

    def _ending_in(self, view: View, step: StepView, seconds: float) -> float:
        """USD of the time until a step's end, and of the deadline that may be missed after it."""
        p, money = self.parameters, view.money
        end = max(seconds + step.after_seconds, step.beside_seconds)
        doubt = p.doubt_seconds + p.risk * end
        late = max(-30.0, min(30.0, (end - step.deadline_in) / doubt))
        miss = p.miss_weight * money.miss / (1.0 + math.exp(-late))
        # the same as `seconds` but for a constant where no step is beside it
        time = p.beside_weight * seconds + (1.0 - p.beside_weight) * end
        return step.priority * (p.wait_weight * money.hour_of_priority * time / HOUR + miss)

    def _price(self, view: View) -> float:
        """USD of a machine's second."""
        per_second = view.money.price_per_hour / HOUR
        return per_second * self.parameters.dollar * self.money_weight(view)

    def money_weight(self, view: View) -> float:
        """What a dollar for machines counts for, 1 or more: spoken for, or gone before its hour."""
        p, money = self.parameters, view.money
        left = money.day_left - money.committed
        taken = 1.0 - max(0.0, min(1.0, left / max(money.day_left, 1e-6)))
        early = 0.0
        if 0.0 < money.day_cap < math.inf:
            gone = 1.0 - min(left, money.month_left - money.committed) / money.day_cap
            hour = view.now / HOUR % 24.0
            passed = max(0.0, min(1.0, (hour - _MORNING) / _WORKING_HOURS))
            early = max(0.0, min(1.0, gone) - math.pow(passed, p.ration_shape))
        return 1.0 + p.scarcity * taken + p.ration * early

    def _loss(self, view: View, step: StepView, seconds: float) -> float:
        """Expected seconds of work that are done twice when the machine is taken back."""
        repeated = 60.0 if step.checkpointable else 0.5 * seconds
        hazard = min(1.0, view.money.hazard_per_hour * seconds / HOUR)
        return self.parameters.hazard_weight * hazard * (repeated + view.money.boot_seconds)

    def _rent(self, view: View, step: StepView, seconds: float) -> float:
        """USD of what others could do with the memory and the cores of the head."""
        p, home = self.parameters, view.home
        pressure = max(0, view.waiting - 1) + p.coming * view.arrivals_half_hour
        memory = p.rent_memory * step.memory_p95_gb / max(home.room_gb, 1.0)
        return (memory + p.rent_cores * step.cores / home.cores) * seconds / HOUR * pressure

    # options

    def _home(self, view: View, step: StepView) -> float:
        home = view.home
        work = step.home_seconds + step.cold_home
        seconds = shared_seconds(work, step.cores, home.cores, home.cores_wanted, home.runs)
        rate = min(1.0, home.cores / (home.cores_wanted + step.cores))
        before = min(1.0, home.cores / home.cores_wanted) if home.cores_wanted else 1.0
        slower = 1.0 - rate / before
        weights = sum(run.priority * min(run.seconds_left, seconds) for run in home.runs)
        crowd = self.parameters.crowding * slower * weights / HOUR
        lost = view.money.hour_of_priority * crowd + self._rent(view, step, seconds)
        return self._ending_in(view, step, seconds) + lost

    def _on_cloud(self, view: View, step: StepView, cold: bool) -> float:
        p = self.parameters
        work = step.cloud_seconds * p.slowdown * math.pow(view.money.cloud_pace, p.pace)
        return work + step.transfer_seconds + (step.cold_cloud if cold else 0.0)

    def _machine(self, view: View, step: StepView, machine: MachineView, price: float) -> float:
        p = self.parameters
        work = self._on_cloud(view, step, step.kind not in machine.warm)
        wanted = machine.cores_wanted
        took = shared_seconds(work, step.cores, machine.cores, wanted, machine.runs)
        seconds = machine.ready_in + took
        longer = max(0.0, seconds - machine.busy_seconds)
        paid, crowd = seconds, 0.0
        if machine.busy_seconds > 0:
            rate = min(1.0, machine.cores / (wanted + step.cores))
            paid = longer + p.shared * (seconds - longer) * min(1.0, 1.0 / rate - 1.0)
            before = min(1.0, machine.cores / wanted) if wanted else 1.0
            weights = sum(run.priority * min(run.seconds_left, seconds) for run in machine.runs)
            crowd = p.crowding_cloud * (1.0 - rate / before) * weights / HOUR
        end = seconds + self._loss(view, step, seconds)
        lost = view.money.hour_of_priority * crowd
        return self._ending_in(view, step, end) + price * paid + lost

    def _purchase(self, view: View, step: StepView, price: float) -> float:
        p, money = self.parameters, view.money
        seconds = money.boot_seconds + self._on_cloud(view, step, cold=True)
        refused = p.stock * math.exp(-money.stocked_out_seconds / _STOCK_SECONDS)
        end = seconds + self._loss(view, step, seconds) + refused * _REFUSAL_SECONDS
        followers = sum(not one.private for one in view.others if one.number != step.number)
        tail = p.tail_seconds / (1.0 + p.tail_shared * followers)
        return self._ending_in(view, step, end) + price * (seconds + tail)

    def _wait(self, view: View, step: StepView, price: float) -> float:
        """As if it then ran at home or on a machine that works, whichever is cheaper.

        What comes free is noticed a moment later: steps of milliseconds had better not wait.
        """
        p = self.parameters
        ahead = self._ahead(view, step)
        found = math.inf
        if step.memory_p95_gb <= view.home.room_gb - RESERVE_GB:
            free = view.home.free_gb - RESERVE_GB
            seconds, is_free = until_free(step.memory_p95_gb, free, view.home.runs)
            wait = (seconds or 60.0) + (0.0 if is_free else p.refill_seconds)
            wait = wait * p.optimism + ahead / max(view.home.room_gb, 1.0) + PAUSE_SECONDS
            work = step.home_seconds + step.cold_home
            rent = p.rent_later * self._rent(view, step, work)
            found = self._ending_in(view, step, wait + work) + rent
        work = self._on_cloud(view, step, cold=False)
        if not step.private:
            wait = self._until_machine(view, step) + ahead / 30.0 + PAUSE_SECONDS
            if wait < math.inf:
                found = min(found, self._ending_in(view, step, wait + work) + price * work)
        if found < math.inf:
            return found
        wait = _NO_MACHINE_SECONDS * p.optimism
        return self._ending_in(view, step, wait + work) + price * work

    def _until_machine(self, view: View, step: StepView) -> float:
        """Seconds until a machine that works has memory; infinite without one."""
        first = math.inf
        for machine in view.machines:
            # one without work would be an option of its own
            if machine is None or machine.state == "leaving" or machine.busy_seconds <= 0:
                continue
            seconds, is_free = until_free(step.memory_p95_gb, machine.free_gb, machine.runs)
            first = min(first, seconds if is_free and machine.runs else machine.busy_seconds)
        return first * self.parameters.optimism

    def _ahead(self, view: View, step: StepView) -> float:
        """GB times seconds that more urgent steps will hold, weighted."""
        if len(view.others) < 2:
            return 0.0
        urgencies = self._urgencies(view)
        pairs = list(zip(view.others, urgencies, strict=True))
        mine = next((value for one, value in pairs if one.number == step.number), math.inf)
        held = sum(one.memory_gb * one.home_seconds for one, value in pairs if value > mine)
        return self.parameters.ahead * held

    def _urgencies(self, view: View) -> list[float]:
        """Of the others; the decisions of a moment have the same."""
        others, now, found = self._known
        if others is not view.others or now != view.now:
            found = [self._urgency.of(one, view.now) for one in view.others]
            self._known = (view.others, view.now, found)
        return found

    # machines

    def _of_machines(self, view: View, mask: Sequence[bool], costs: list[float]) -> None:
        """Keeping costs nothing here; what is better is below 0, what is worse above."""
        p = self.parameters
        costs[KEEP] = 0.0
        early = p.prewarm * view.money.boot_seconds - view.large_in
        most = p.idle_seconds * (1.0 + p.idle_session * view.arrivals_half_hour)
        for slot in range(MACHINES):
            machine = view.machines[slot]
            if mask[FIRST_STOP + slot] and machine is not None:
                longer = machine.idle_seconds - most
                costs[FIRST_STOP + slot] = 1.0 if early > 0 else -longer / HOUR
        if mask[PREWARM]:
            has_free = any(one is not None and one.busy_seconds <= 0 for one in view.machines)
            costs[PREWARM] = 1.0 if has_free or early <= 0 else -early / HOUR
