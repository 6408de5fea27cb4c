"""Builds what a policy sees from the running system, and says what is not possible there.

The same `View` as the simulator's, and the same guardrails. What differs stands here: the system
cannot start a machine while one that is there has room (Ray would put the step on that one), it
looks after idle machines by itself, and its ledger promises money for a whole run of a machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from actors.situation import (
    STALE_SECONDS,
    HomeFacts,
    MachineFacts,
    MoneyFacts,
    Plan,
    RunFacts,
    Situation,
    StepFacts,
)
from rl import critical_paths
from rl.calibration.as_live import has_room
from rl.calibration.fit import (
    CLOUD,
    HOME,
    PRIOR_HOURS,
    PRIOR_LOSSES,
    Fit,
    LogNormal,
)
from rl.guardrails import Limits, refusals
from rl.regime import Costs
from rl.remaining import seconds_left
from rl.view import (
    ACTIONS,
    BUY,
    FIRST_MACHINE,
    MACHINES,
    WAIT,
    HomeView,
    MachineView,
    MoneyView,
    RunView,
    StepView,
    View,
)
from rl.view import HOME as AT_HOME
from rl.views import PRIOR_BOOT_SECONDS, PRIOR_BOOTS
from rl.work import KINDS

KIND = "function"
"""Of all steps that are routed: services, agents and jobs find their own places."""
PRIORITIES = {"critical": 2.0, "high": 1.5, "normal": 1.0, "low": 0.7}
"""Weight of a workflow's time, where the simulator's lie between 0.7 and 1.5."""
NO_DEADLINE_SECONDS = 4 * 3600.0
"""A workflow without a deadline counts as having one so far away that it is never missed."""
NO_CAP_DOLLARS = 1000.0
FORCED_SECONDS = 3600.0
"""A step that nothing is allowed for but to wait is started after it, at the place it may go to."""
MEMORY_GROWTH, MOST_GROWTHS = 1.5, 2
"""Of a step's memory, each time that it ran out of it; no more often, or nothing would fit."""
_SETTLING_SECONDS, _SETTLING_SHARE = 15.0, 0.5
"""A step that runs for less than that, and that share of its believed time, may hold more yet."""
_TRANSFER_SECONDS = 0.5

_NO_CLOUD = "there is no cloud: cloud.project is not set"
_HAS_ROOM = "a machine has room, and Ray would start it there"
_AT_HOME = "the step is to run at home"
_AWAY = "the step is to run on a machine"
_LAST = "it is asked about for the last time"
_MANY = "machines beyond the third are not told apart"
_UNREAD = "machines and money have not been read yet"


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


class LiveViews:
    """Builds them.

    Args:
        fit: What is believed of durations and memory.
        costs: What waiting and missed deadlines are worth.
    """

    def __init__(self, fit: Fit, costs: Costs | None = None) -> None:
        self.fit = fit
        self._costs = costs or Costs()
        self._after: WeakKeyDictionary[Plan, list[float]] = WeakKeyDictionary()

    def build(self, situation: Situation) -> LiveView:
        """What is seen of a situation."""
        at = situation.at
        home = self._home(situation.home, at)
        machines = _slots(situation.machines)
        views: list[MachineView | None] = [
            self._machine(one, situation.step.target, situation.money, at) for one in machines
        ]
        money = self._money(situation.money, views, at)
        views += [None] * (MACHINES - len(views))
        view = View(
            now=_after_midnight(at),
            step=self._step(situation.step, situation.money, at),
            home=home,
            machines=views,
            money=money,
            waiting=situation.waiting,
            arrivals_half_hour=situation.arrivals,
            large_in=float("inf"),
        )
        nodes = tuple(one.node for one in machines)
        return _restricted(view, situation, nodes)

    def _step(self, step: StepFacts, money: MoneyFacts | None, at: float) -> StepView:
        fit, kind = self.fit, KINDS[KIND]
        memory = _grown(fit.memory_gb(step.target, step.memory_gb), step.out_of_memory)
        home = fit.seconds(step.target, HOME, step.expected_seconds)
        cloud = fit.seconds(step.target, CLOUD, step.expected_seconds)
        plan, index = step.ready.plan, step.ready.index
        left = NO_DEADLINE_SECONDS if step.deadline is None else step.deadline - at
        return StepView(
            number=0,
            kind=KIND,
            memory_mean_gb=memory.mean,
            memory_p95_gb=memory.p95,
            home_seconds=home.mean,
            cloud_seconds=cloud.mean,
            duration_sigma=home.sigma,
            cold_home=0.0,
            cold_cloud=kind.cold_cloud,
            cores=kind.cores,
            transfer_seconds=_TRANSFER_SECONDS,
            checkpointable=False,
            private=step.place in ("private", "local"),
            priority=PRIORITIES[step.priority],
            deadline_in=min(left, NO_DEADLINE_SECONDS),
            after_seconds=0.0 if plan is None else self._path(plan)[index],
            waited=max(0.0, at - step.ready.since),
            spot_losses=step.losses,
            fan_out=0 if plan is None else len(plan.dependents[index]),
        )

    def _path(self, plan: Plan) -> list[float]:
        """Believed seconds from each step's end to the workflow's."""
        known = self._after.get(plan)
        if known is None:
            seconds = [
                self.fit.seconds(target, HOME, expected).mean
                for target, expected in zip(plan.targets, plan.expected, strict=True)
            ]
            known = self._after[plan] = critical_paths.after(plan.dependents, seconds)
        return known

    def _run(self, run: RunFacts, place: str, at: float) -> RunView:
        believed = self.fit.seconds(run.target, place, run.expected_seconds)
        left = seconds_left(believed.median, at - run.since, believed.sigma)
        memory = _grown(self.fit.memory_gb(run.target, run.memory_gb), run.out_of_memory)
        return RunView(left, memory.p95, PRIORITIES[run.priority], KINDS[KIND].cores, left)

    def _home(self, home: HomeFacts, at: float) -> HomeView:
        runs = [self._run(run, HOME, at) for run in home.runs]
        believed = sum(run.memory_gb for run in runs)
        held = self._settled(home, runs, at) if home.held_gb is None else _measured(home, runs)
        room = min(home.available_gb + held, home.memory_gb)
        wanted = KINDS[KIND].cores * len(runs)
        return HomeView(home.memory_gb, room, room - believed, home.cores, wanted, runs, KIND)

    def _settled(self, home: HomeFacts, views: Sequence[RunView], at: float) -> float:
        """GB of runs that are taken to hold all that they will, where nobody has measured it."""
        found = 0.0
        for view, run in zip(views, home.runs, strict=True):
            seconds = self.fit.seconds(run.target, HOME, run.expected_seconds).mean
            if at - run.since > max(_SETTLING_SECONDS, _SETTLING_SHARE * seconds):
                found += view.memory_gb
        return found

    def _machine(
        self, machine: MachineFacts, target: str, money: MoneyFacts | None, at: float
    ) -> MachineView:
        runs = [self._run(run, CLOUD, at) for run in machine.runs]
        held = sum(run.memory_gb for run in runs)
        wanted = KINDS[KIND].cores * len(runs)
        ready_in = 0.0
        if machine.state == "booting":
            ready_in = max(5.0, boot_seconds(money) - (at - machine.since))
        longest = max((run.seconds_left for run in runs), default=0.0)
        slower = max(1.0, wanted / machine.cores)
        is_idle = machine.idle_since is not None and not runs and machine.state == "ready"
        idle = at - machine.idle_since if is_idle and machine.idle_since is not None else 0.0
        return MachineView(
            state=machine.state,
            ready_in=ready_in,
            free_gb=min(machine.free_gb, machine.memory_gb - held),
            cores=machine.cores,
            cores_wanted=wanted,
            busy_seconds=ready_in + longest * slower if runs else 0.0,
            idle_seconds=max(idle, 0.0),
            warm={KIND} if target in machine.done else set(),
            runs=runs,
        )

    def _money(
        self, money: MoneyFacts | None, machines: Sequence[MachineView | None], at: float
    ) -> MoneyView:
        facts = money or MoneyFacts(0.0638, day_cap=0.0, month_cap=0.0)
        price = facts.price_per_hour
        committed = sum(
            (one.busy_seconds + Limits().tail_seconds) / 3600.0 * price
            for one in machines
            if one is not None and one.state != "leaving"
        )
        month = min(facts.month_left, NO_CAP_DOLLARS)
        return MoneyView(
            price_per_hour=price,
            day_left=min(facts.day_left, month),
            month_left=month,
            committed=committed,
            hazard_per_hour=(PRIOR_LOSSES + facts.losses) / (PRIOR_HOURS + facts.exposed_hours),
            boot_seconds=boot_seconds(money),
            stocked_out_seconds=(
                float("inf") if facts.refused_at is None else max(at - facts.refused_at, 0.0)
            ),
            hour_of_priority=self._costs.hour_of_priority,
            miss=self._costs.miss,
            day_cap=float("inf") if facts.day_cap is None else facts.day_cap,
        )


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


def _after_midnight(at: float) -> float:
    """Seconds of local time: the simulator's days are those of the head's user."""
    local = time.localtime(at)
    return 3600.0 * local.tm_hour + 60.0 * local.tm_min + local.tm_sec


def boot_seconds(money: MoneyFacts | None) -> float:
    """Mean of what a machine takes to start, as the simulator believes it."""
    boots = () if money is None else money.boots
    return (PRIOR_BOOTS * PRIOR_BOOT_SECONDS + sum(boots)) / (PRIOR_BOOTS + len(boots))


def _slots(machines: Iterable[MachineFacts]) -> list[MachineFacts]:
    """The three that matter most: those that take steps, with the most room, before others."""
    rank = {"ready": 0, "booting": 1, "leaving": 2}
    ordered = sorted(machines, key=lambda one: (rank[one.state], -one.free_gb, one.node))
    return ordered[:MACHINES]


def _restricted(view: View, situation: Situation, nodes: tuple[str, ...]) -> LiveView:
    """With what the running system refuses beside the guardrails."""
    assert view.step is not None
    most = min(MACHINES, situation.most_machines)
    limits = Limits(machines=most, machine_gb=situation.machine_gb)
    reasons = refusals(view, limits)

    def refuse(action: int, reason: str) -> None:
        if reasons[action] is None:
            reasons[action] = reason

    cloud = (*range(FIRST_MACHINE, FIRST_MACHINE + MACHINES), BUY)
    for action, reason in _impossible(view, situation):
        refuse(action, reason)
    if closed := _closed(situation):
        for action in cloud:
            reasons[action] = closed
    if not situation.may_wait:
        reasons[WAIT] = _LAST
    forced = _force(reasons, view.step, situation)
    return LiveView(view, reasons, nodes, forced)


def _closed(situation: Situation) -> str:
    """Why it cannot leave the head at all; empty: it can, as far as this system goes."""
    if situation.step.place == "private":
        return ""  # the guardrails say so
    if situation.step.place == "local":
        return _AT_HOME
    if not situation.has_cloud:
        return _NO_CLOUD
    return _UNREAD if situation.money is None or situation.age > STALE_SECONDS else ""


def _impossible(view: View, situation: Situation) -> Iterable[tuple[int, str]]:
    money, step = situation.money, view.step
    assert step is not None
    if money is not None and money.no_purchase:
        yield BUY, money.no_purchase
    if len(situation.machines) >= situation.most_machines > MACHINES:
        yield BUY, _MANY
    if any(has_room(one, step) for one in view.machines):
        yield BUY, _HAS_ROOM
    if situation.step.place == "spot":
        yield AT_HOME, _AWAY


def _force(reasons: list[str | None], step: StepView, situation: Situation) -> str:
    """Allow something where nothing is left; why, or an empty string."""
    if any(reason is None for reason in reasons[:ACTIONS]):
        if reasons[WAIT] is not None or step.waited < FORCED_SECONDS:
            return ""
        if any(reasons[action] is None for action in range(WAIT)):
            return ""
        reasons[WAIT] = f"it has waited for {step.waited:.0f} s and has no place"
    elif situation.may_wait and step.waited < FORCED_SECONDS:
        # the guardrails refuse to wait where there is a place; the system has refused that place
        reasons[WAIT] = None
        return ""
    place = BUY if situation.step.place == "spot" else AT_HOME
    why = reasons[place] or ""
    reasons[place] = None
    return why
