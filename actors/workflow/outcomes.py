"""What follows from what executors answer, and from time: events, applied as they are made.

Each function takes a machine, returns the events that are to be committed (none where there is
nothing to say, such as for an attempt that is not the current one), and leaves the machine as it is
after them. What follows from the events may be carried out once they are committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from actors.workflow.events import Event
from actors.workflow.machine import Machine
from actors.workflow.retry_delays import delay_after_loss, retry_delay
from actors.workflow.shown import as_message
from actors.workflow.sizes import check_rendered
from actors.workflow.tasks import FailureKind, StepError, StepResult
from actors.workflow.units import Unit
from actors.workflow.values import as_json, by_reference

_OUTPUT = "the workflow's output"
_REFUSED = ("invalid", "oversized")
_UNCOUNTED = ("moved", "restarted")
_LASTING = ("agent", "train")
"""Steps of these kinds go on without the orchestrator that has started them."""
_UNKNOWN = ("lost", "timeout", "unstopped", *_UNCOUNTED)


def submit(machine: Machine, now: float) -> list[Event]:
    """The first event of a workflow."""
    return applied(
        machine, [Event("submitted", now, data={"most_items": machine.limits.items})], now
    )


def start(machine: Machine, unit: Unit, idempotent: bool, now: float) -> list[Event]:
    """The next attempt of a unit that `Machine.may_start`."""
    data = {"idempotent": True} if idempotent else {}
    kind: Literal["step_started", "compensation_started"]
    kind = "compensation_started" if unit.undo else "step_started"
    event = Event(kind, now, unit.step.name, unit.item, unit.attempt + 1, data)
    machine.apply(event)
    return [event]


def succeed(
    machine: Machine, unit: Unit, attempt: int, result: StepResult, now: float
) -> list[Event]:
    """An attempt gave a result. One that is no JSON, or too large, fails the step."""
    if not _is_current(unit, attempt):
        return []
    try:
        data = _result(machine, unit, result)
    except StepError as error:
        return fail(machine, unit, attempt, error.after_work(), now)
    kind: Literal["step_completed", "compensation_completed"]
    kind = "compensation_completed" if unit.undo else "step_completed"
    event = Event(kind, now, unit.step.name, unit.item, attempt, data)
    return applied(machine, [event], now)


def _result(machine: Machine, unit: Unit, result: StepResult) -> dict[str, Any]:
    if result.reference is not None:
        value, size = by_reference(result.reference, result.size), len(result.reference) + 40
    else:
        what = f"the result of step {unit.step.name!r}"
        value, size = as_json(result.value, machine.limits.result_bytes, what)
    if machine.size + size > machine.limits.total_bytes:
        raise StepError(
            "oversized",
            f"with the result of step {unit.step.name!r} the results of this workflow pass "
            f"{machine.limits.total_bytes} bytes: let steps return less, or by reference",
            retryable=False,
        )
    told = {
        "node": result.node,
        "place": result.place,
        "seconds": result.seconds,
        "peak_bytes": result.peak_bytes,
    }
    return {"value": value, "size": size} | {k: v for k, v in told.items() if v is not None}


def fail(machine: Machine, unit: Unit, attempt: int, error: StepError, now: float) -> list[Event]:
    """An attempt failed: it is tried again, ends its step, or waits for its user.

    A compensation that did its work has completed: nobody needs what it gave.
    """
    if not _is_current(unit, attempt):
        return []
    if unit.undo and error.acted and error.failure in _REFUSED:
        data = {"value": None, "size": 0}
        done = Event("compensation_completed", now, unit.step.name, unit.item, attempt, data)
        return applied(machine, [done], now)
    return applied(machine, [_failure(machine, unit, attempt, error, now)], now)


def refuse(machine: Machine, unit: Unit, error: StepError, now: float) -> list[Event]:
    """A unit that `Machine.may_start` cannot be started, now or ever."""
    return applied(machine, [_ended(machine, unit, unit.attempt, error, now, None)], now)


def _failure(machine: Machine, unit: Unit, attempt: int, error: StepError, now: float) -> Event:
    turned = machine.goal is not None and not unit.undo
    is_unknown = error.failure in _UNKNOWN and not (turned or unit.idempotent)
    # what undoes it may follow at any time, also while another attempt waits, or after it
    is_held = error.failure == "unstopped" and unit.can_be_undone
    if not (is_unknown or is_held):
        retry_at = None if turned else _retry_at(machine, unit, error, now)
        return _ended(machine, unit, attempt, error, now, retry_at)
    data = {"error": _told(error)}
    kind: Literal["step_uncertain", "compensation_uncertain"]
    kind = "compensation_uncertain" if unit.undo else "step_uncertain"
    return Event(kind, now, unit.step.name, unit.item, attempt, data)


def _ended(
    machine: Machine,
    unit: Unit,
    attempt: int,
    error: StepError,
    now: float,
    retry_at: float | None,
) -> Event:
    data: dict[str, Any] = {"error": _told(error)}
    if error.acted:
        data["acted"] = True
    if retry_at is not None:
        data["retry_at"] = retry_at
    what = "timed_out" if error.failure == "timeout" else "failed"
    kind: Any = f"{unit.prefix}_{what}"
    return Event(kind, now, unit.step.name, unit.item, attempt, data)


def _told(error: StepError) -> dict[str, Any]:
    return {"kind": error.failure, "message": as_message(error.message)}


def _retry_at(machine: Machine, unit: Unit, error: StepError, now: float) -> float | None:
    if error.failure in _UNCOUNTED:
        return now
    if error.failure == "lost":
        losses = unit.losses + 1
        if losses >= machine.limits.losses:
            return None
        return now + delay_after_loss(machine.limits, losses)
    if error.acted and not unit.idempotent:
        return None
    if not error.retryable or unit.failures + 1 >= unit.call.retry.attempts:
        return None
    seed = f"{machine.id}/{unit.prefix}/{unit.step.name}/{unit.item}/{unit.attempt}"
    delay = retry_delay(unit.call.retry, unit.failures + 1, seed)
    return now + max(delay, error.retry_after or 0.0)


def stop(machine: Machine, unit: Unit, attempt: int, now: float) -> list[Event]:
    """An attempt was stopped: its workflow has turned, or it was an earlier orchestrator's."""
    if not _is_current(unit, attempt):
        return []
    if machine.goal is None:
        return fail(machine, unit, attempt, _restarted(), now)
    event = Event("step_cancelled", now, unit.step.name, unit.item, attempt)
    return applied(machine, [event], now)


def must_be_ended(machine: Machine, unit: Unit) -> bool:
    """Whether its attempt goes on after its orchestrator has ended, and must not."""
    if unit.undo or unit.call.kind not in _LASTING:
        return False
    # a train step's next attempt goes on with its job; what an agent is at, nobody hears of
    return machine.goal is not None or (unit.can_be_undone and unit.call.kind == "agent")


def recover(machine: Machine, now: float) -> list[Event]:
    """What ran when the last orchestrator ended: started again, uncertain, or stopped.

    Units that `must_be_ended` run on until the caller has seen to that; then see `stop` and `fail`.
    """
    events: list[Event] = []
    for unit in list(machine.active):
        if must_be_ended(machine, unit):
            continue
        if machine.goal is not None and not unit.undo:
            event = Event("step_cancelled", now, unit.step.name, unit.item, unit.attempt)
        else:
            # a job of which nobody takes care any more goes on
            lasts = unit.call.kind in _LASTING and not unit.idempotent and unit.can_be_undone
            error = _restarted("unstopped" if lasts else "restarted")
            event = _failure(machine, unit, unit.attempt, error, now)
        events.append(event)
        machine.apply(event)
    return events + settle(machine, now)


def _restarted(kind: FailureKind = "restarted") -> StepError:
    return StepError(kind, "the orchestrator was restarted while this attempt ran")


def applied(machine: Machine, events: Iterable[Event], now: float) -> list[Event]:
    """The events, and those that follow from them at once."""
    events = list(events)
    for event in events:
        machine.apply(event)
    return events + settle(machine, now)


def settle(machine: Machine, now: float) -> list[Event]:
    """What is due by now: the deadline, steps that end without running, the workflow's end."""
    events: list[Event] = []
    while (event := _due(machine, now)) is not None:
        machine.apply(event)
        events.append(event)
    return events


def _due(machine: Machine, now: float) -> Event | None:
    if machine.finished is not None:
        return None
    if machine.goal is not None:
        return _end_of_undoing(machine, now)
    if machine.left == 0:
        return _end(machine, now)
    if machine.deadline is not None and now >= machine.deadline:
        message = "the workflow's deadline passed before its steps had ended"
        return Event(
            "deadline_passed", now, data={"error": {"kind": "deadline", "message": message}}
        )
    for index, (what, data) in machine.due.items():
        kind: Any = f"step_{what}"
        return Event(kind, now, machine.steps[index].step.name, data=data)
    return None


def _end(machine: Machine, now: float) -> Event:
    try:
        template, limit = machine.definition.output, machine.limits.output_bytes
        check_rendered(template, machine.scope(), limit, _OUTPUT)
        output, _ = as_json(template.render(machine.scope()), limit, _OUTPUT, marks=True)
    except StepError as error:
        # all steps have done their work: nothing is undone for a mistake in the last line
        return Event("failed", now, data={"error": _told(error)})
    return Event("completed", now, data={"output": output})


def _end_of_undoing(machine: Machine, now: float) -> Event | None:
    if machine.undo is None or machine.uncertain or not machine.is_idle:
        return None
    if machine.goal == "cancelled":
        return Event("cancelled", now)
    return Event("failed", now, data={"error": dict(machine.error or {})})


def _is_current(unit: Unit, attempt: int) -> bool:
    return unit.status == "running" and unit.attempt == attempt
