"""What the running system refuses a policy beside the guardrails, and what it allows at the last.

The system cannot start a machine while one that is there has room (Ray would put the step on that
one), it may have no cloud at all, and its ledger promises money for a whole run of a machine. It
asks about a step that waits a fraction of a second after something has ended, and not at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from actors.orchestration.holding import PAUSE_SECONDS
from actors.situation import STALE_SECONDS, Situation
from rl.calibration.as_live import has_room
from rl.guardrails import Limits, refusals
from rl.view import (
    ACTIONS,
    BUY,
    FIRST_MACHINE,
    HOME,
    MACHINES,
    WAIT,
    HomeView,
    StepView,
    View,
)

_ROUNDS = 2  # of questions, for which the head has work to do
FORCED_SECONDS = 3600.0
"""A step that nothing is allowed for but to wait is started after it, at the place it may go to."""

_NO_CLOUD = "there is no cloud: cloud.project is not set"
_HAS_ROOM = "a machine has room, and Ray would start it there"
_AT_HOME = "the step is to run at home"
_AWAY = "the step is to run on a machine"
_LAST = "it is asked about for the last time"
_MANY = "machines beyond the third are not told apart"
_SOON_OVER = "it is over at home before it would be asked about again"
_UNREAD = "machines and money have not been read yet"


def refused(view: View, situation: Situation) -> tuple[list[str | None], str]:
    """(of each action why it is refused or None, why one is allowed that should not be or "")."""
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
    elif reasons[HOME] is None and _is_soon_over(view.step, view.home):
        refuse(WAIT, _SOON_OVER)
    return reasons, _force(reasons, view.step, situation)


def _is_soon_over(step: StepView, home: HomeView) -> bool:
    """Whether the cores of the head would rest while a step of milliseconds waits."""
    left = sum(run.work_seconds * run.cores for run in home.runs) / home.cores
    return step.home_seconds < PAUSE_SECONDS and left < _ROUNDS * PAUSE_SECONDS


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
        yield HOME, _AWAY


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
    place = BUY if situation.step.place == "spot" else HOME
    why = reasons[place] or ""
    reasons[place] = None
    return why
