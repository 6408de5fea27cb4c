"""What no policy may do, in the simulator and in the running system: one table of refusals.

A policy chooses among what is left. The limits hold whatever it was trained on, and whatever it
takes for a good idea: memory, money, machines that leave, steps that must stay, steps that starve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ironcliw.errors import SettingsError
from rl.view import (
    ACTION_NAMES,
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
)

RESERVE_GB = 1.5
TAIL_SECONDS = 150.0
HOUR = 3600.0

_NOT_ABOUT_A_STEP = "the decision is about machines"
_NOT_ABOUT_MACHINES = "the decision is about a step"
_NO_MACHINE = "there is no such machine"
_LEAVING = "the machine got notice"
_PRIVATE = "the step is private"
_LOSSES = "it was lost on machines too often"
_HOME_MEMORY = "its memory may not fit beside the reserve"
_MACHINE_MEMORY = "its memory may not fit on the machine"
_MONEY = "today's or the month's money does not reach"
_SLOTS = "there are as many machines as may be"
_STARVES = "it has waited too long, and has a place"
_LATE = "its deadline has passed, and it has a place"
_BUSY = "the machine is not idle"


@dataclass(frozen=True, slots=True)
class Limits:
    """The figures of the limits.

    Attributes:
        reserve_gb: Of the head, that stay free beside every step.
        machine_gb: That steps may hold of a machine.
        machines: At most at once.
        starvation_seconds: After which a step that has a place may not wait.
        spot_losses: After so many a step runs at home, if it ever can.
        tail_seconds: Of a machine's time, reserved beside its work.
    """

    reserve_gb: float = RESERVE_GB
    machine_gb: float = 30.0
    machines: int = MACHINES
    starvation_seconds: float = 900.0
    spot_losses: int = 3
    tail_seconds: float = TAIL_SECONDS


def refusals(view: View, limits: Limits) -> list[str | None]:
    """Of each action why it is refused; None where it is allowed. At least one always is."""
    return _of_machines(view, limits) if view.step is None else _of_step(view, view.step, limits)


def mask_of(reasons: Sequence[str | None]) -> list[bool]:
    """True where an action is allowed."""
    return [reason is None for reason in reasons]


def checked(action: int, reasons: Sequence[str | None], policy: str) -> int:
    """The action, if it is allowed.

    Raises:
        SettingsError: it is refused, or there is no such action.
    """
    if not 0 <= action < ACTIONS:
        raise SettingsError(f"policy {policy!r} took action {action}; there are 0 to {ACTIONS - 1}")
    if reasons[action] is not None:
        allowed = [ACTION_NAMES[one] for one in range(ACTIONS) if reasons[one] is None]
        raise SettingsError(
            f"policy {policy!r} took {ACTION_NAMES[action]!r}, which is refused "
            f"({reasons[action]}); allowed are {', '.join(allowed)}"
        )
    return action


def can_ever_be_at_home(view: View, step: StepView, limits: Limits) -> bool:
    """Whether it fits once no other step runs, as much as the user holds now."""
    return step.memory_p95_gb <= view.home.room_gb - limits.reserve_gb


def money_left(view: View) -> float:
    """USD that nothing has a claim on."""
    money = view.money
    return min(money.day_left, money.month_left) - money.committed


def must_stop(
    day_left: float, month_left: float, machines: int, price: float, notice: float
) -> bool:
    """Whether the machines must go now, so that their last seconds stay within the caps.

    Args:
        day_left: USD of today's cap, after what is spent.
        month_left: Of the month's.
        machines: That are paid for now.
        price: Of one, USD an hour.
        notice: Seconds that they take to stop.
    """
    return min(day_left, month_left) <= machines * price * notice / HOUR


def _of_step(view: View, step: StepView, limits: Limits) -> list[str | None]:
    found: list[str | None] = [_NOT_ABOUT_MACHINES] * ACTIONS
    has_room = step.memory_p95_gb <= view.home.free_gb - limits.reserve_gb
    found[HOME] = None if has_room else _HOME_MEMORY
    away = _away(view, step, limits)
    seconds = step.cloud_seconds + step.transfer_seconds
    left = money_left(view)
    for slot, machine in enumerate(view.machines):
        found[FIRST_MACHINE + slot] = away or _on_machine(view, step, machine, left, seconds)
    found[BUY] = away or _purchase(view, limits, left, seconds + step.cold_cloud)
    if away is None and step.memory_p95_gb > limits.machine_gb:
        found[BUY] = _MACHINE_MEMORY
    found[WAIT] = None
    if step.waited > limits.starvation_seconds:
        if any(found[action] is None for action in range(WAIT)):
            found[WAIT] = _STARVES
    elif step.deadline_in < 0 and any(found[action] is None for action in range(BUY)):
        found[WAIT] = _LATE  # what could still be bought is no place: it may not be worth it
    return found


def _away(view: View, step: StepView, limits: Limits) -> str | None:
    """Why it may not leave the head."""
    if step.private:
        return _PRIVATE
    if step.spot_losses >= limits.spot_losses and can_ever_be_at_home(view, step, limits):
        return _LOSSES
    return None


def _on_machine(
    view: View, step: StepView, machine: MachineView | None, left: float, seconds: float
) -> str | None:
    if machine is None:
        return _NO_MACHINE
    if machine.state == "leaving":
        return _LEAVING
    if step.memory_p95_gb > machine.free_gb:
        return _MACHINE_MEMORY
    longer = max(0.0, machine.ready_in + seconds + step.cold_cloud - machine.busy_seconds)
    return _MONEY if longer / HOUR * view.money.price_per_hour > left else None


def _purchase(view: View, limits: Limits, left: float, seconds: float) -> str | None:
    if sum(machine is not None for machine in view.machines) >= limits.machines:
        return _SLOTS
    paid = view.money.boot_seconds + seconds + limits.tail_seconds
    return _MONEY if paid / HOUR * view.money.price_per_hour > left else None


def _of_machines(view: View, limits: Limits) -> list[str | None]:
    found: list[str | None] = [_NOT_ABOUT_A_STEP] * ACTIONS
    found[KEEP] = None
    found[PREWARM] = _purchase(view, limits, money_left(view), limits.tail_seconds)
    for slot, machine in enumerate(view.machines):
        if machine is None:
            reason: str | None = _NO_MACHINE
        elif machine.state == "leaving":
            reason = _LEAVING
        else:
            reason = _BUSY if machine.busy_seconds > 0 or machine.ready_in > 0 else None
        found[FIRST_STOP + slot] = reason
    return found
