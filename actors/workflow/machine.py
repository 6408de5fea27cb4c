"""One workflow's state, which follows from its events and from nothing else.

`Machine.apply` takes the events in the order in which they were committed, each in constant time
(and in the number of items, once, where a fan-out opens or closes). It has no clock and decides
nothing that takes time: what should happen next is read off the state by `decisions`.

A workflow goes forward until its steps have ended. A step that fails for good, the deadline, or a
cancellation turns it: nothing new starts, running attempts are stopped, and when the last one has
ended, everything that may have had an effect is undone, the last one first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from actors.workflow.events import Event
from actors.workflow.graph import Definition
from actors.workflow.limits import FORMER_ITEMS, Limits
from actors.workflow.openings import open_step
from actors.workflow.references import NO_ITEM, Reference, Scope
from actors.workflow.sizes import Size
from actors.workflow.units import StepRun, Unit
from actors.workflow.waiting import Waiting
from ironcliw.schemas.workflows import StepStatus, WorkflowStatus

Goal = Literal["failed", "cancelled"]
_UNKNOWN = ("lost", "moved", "restarted", "timeout", "unstopped")
"""Failures after which nobody knows whether the step had its effect."""


class Machine:
    """One workflow.

    Args:
        workflow_id: Unique.
        definition: Checked.
        inputs: As `Definition.bind` gives them.
        created_at: Of the submission, in Unix seconds.
        deadline: In Unix seconds; None: none.
        limits: How much it may hold. What decides on how it goes on is in its events.

    Attributes:
        next_seq: How many events were applied.
        goal: None while it goes forward; how it will end once it has turned.
        paused: Whether new steps are held back.
        finished: The final status.
        error: Why it turned.
        output: Of a completed workflow.
        most_items: Of a fan-out, by the limits of when it was submitted.
        steps: In the order of the definition.
        left: Steps that have not ended.
        size: Bytes of all values.
        sizes: Of what references give, as far as somebody has asked: a memo.
        due: Steps that end without running, with kind and data of the event that says so.
        startable: Units that may be started, in order.
        fresh: Those of them that nobody has taken yet.
        active: Units that run.
        uncertain: Units that wait for their user.
        waiting: Units that wait for their next attempt.
        undo: Compensations, by step and item, once they are known; the next is startable.
        updated_at: Of the last event.
    """

    def __init__(
        self,
        workflow_id: str,
        definition: Definition,
        inputs: Mapping[str, Any],
        *,
        created_at: float,
        deadline: float | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.id = workflow_id
        self.definition = definition
        self.inputs = inputs
        self.created_at = self.updated_at = created_at
        self.deadline = deadline
        self.limits = limits or Limits()
        self.most_items = self.limits.items
        self.next_seq = 0
        self.goal: Goal | None = None
        self.paused = False
        self.finished: WorkflowStatus | None = None
        self.error: Mapping[str, Any] | None = None
        self.output: Any = None
        self.steps = [StepRun(step) for step in definition.steps]
        self.left = len(self.steps)
        self.size = 0
        self.sizes: dict[Reference, Size] = {}
        self.due: dict[int, tuple[Literal["skipped", "failed", "completed"], dict[str, Any]]] = {}
        self.startable: dict[Unit, None] = {}
        self.fresh: dict[Unit, None] = {}
        self.active: dict[Unit, None] = {}
        self.uncertain: dict[Unit, None] = {}
        self.undo: dict[tuple[str, int | None], Unit] | None = None
        self.waiting = Waiting()
        self._undo_left: list[Unit] = []
        self._acted: list[Unit] = []

    # ------------------------------------------------------------------ what is read off

    @property
    def status(self) -> WorkflowStatus:
        """What is shown and stored."""
        if self.finished is not None:
            return self.finished
        if self.goal is None and self.paused:
            return "paused"
        if self.uncertain and self.is_idle:
            return "uncertain"
        if self.goal is not None:
            return "failing" if self.goal == "failed" else "cancelling"
        return "running"

    @property
    def is_idle(self) -> bool:
        """Nothing runs, and nothing will without somebody's doing or the deadline."""
        return not (self.active or self.startable or self.waiting or self.due)

    def scope(self, unit: Unit | None = None) -> Scope:
        """What the references of that unit, or of the workflow's own fields, see."""
        scope = Scope(
            inputs=self.inputs,
            output_of=lambda name: self.steps[self.definition.by_name[name]].output,
            workflow={"id": self.id, "name": self.definition.name},
        )
        if unit is not None:
            run = self.steps[unit.step.index]
            if unit.item is not None and run.items is not None:
                scope.item, scope.index = run.items[unit.item], unit.item
            else:
                scope.item = NO_ITEM
            if unit.undo:
                done = run.unit(unit.item)
                scope.output = None if done is None else done.value
        return scope

    def unit(self, step: str, item: int | None, *, undo: bool = False) -> Unit | None:
        """The unit of that name, if there is one by now."""
        if undo:
            return (self.undo or {}).get((step, item))
        index = self.definition.by_name.get(step)
        return None if index is None else self.steps[index].unit(item)

    def may_start(self, unit: Unit) -> bool:
        """Whether that unit may be started now."""
        return unit in self.startable and not (self.paused and self.goal is None)

    def wake_at(self) -> float | None:
        """When something is due if nothing happens before, in Unix seconds."""
        at = self.waiting.next_at()
        if self.goal is None and self.finished is None and self.deadline is not None:
            at = self.deadline if at is None else min(at, self.deadline)
        return at

    def take(self, now: float) -> list[Unit]:
        """Units that have become startable since the last call; those that waited for now, too."""
        for unit in self.waiting.pop_due(now):
            self._make_ready(unit)
        if self.paused and self.goal is None:
            return []
        taken = list(self.fresh)
        self.fresh.clear()
        return taken

    # ------------------------------------------------------------------ the fold

    def apply(self, event: Event) -> None:
        """Takes the next committed event."""
        self.next_seq += 1
        self.updated_at = event.at
        if event.step is None:
            _WORKFLOW_EVENTS[event.kind](self, event)
        else:
            prefix, _, what = event.kind.partition("_")
            unit = self.unit(event.step, event.item, undo=prefix == "compensation")
            if unit is None:
                assert prefix == "step" and event.item is None, f"nobody knows of {event}"
                self._end_whole(self.steps[self.definition.by_name[event.step]], what, event)
            else:
                _UNIT_EVENTS[what](self, unit, event)
        # one that may still be at it would be undone too early
        if self.goal is not None and self.undo is None and not (self.active or self.uncertain):
            self._plan_undo()

    def _submitted(self, event: Event) -> None:
        # of when it was submitted: a fan-out that was opened then must open in every replay
        self.most_items = event.data.get("most_items", FORMER_ITEMS)
        for run in self.steps:
            if run.remaining == 0:
                self._open(run)

    def _paused(self, _event: Event) -> None:
        self.paused = True

    def _resumed(self, _event: Event) -> None:
        self.paused = False
        self.fresh = dict(self.startable)

    def _cancel_requested(self, event: Event) -> None:
        self._turn("cancelled", None, event.at)

    def _deadline_passed(self, event: Event) -> None:
        self._turn("failed", event.data["error"], event.at)

    def _finish(self, event: Event) -> None:
        assert event.kind in ("completed", "failed", "cancelled"), "no other event ends a workflow"
        self.finished = event.kind
        self.output = event.data.get("output")
        self.error = event.data.get("error", self.error)

    def _started(self, unit: Unit, event: Event) -> None:
        self._forget(unit)
        unit.status = "running"
        unit.attempt = event.attempt or 0
        unit.idempotent = bool(event.data.get("idempotent"))
        unit.started_at, unit.finished_at = event.at, None
        self.active[unit] = None

    def _completed(self, unit: Unit, event: Event) -> None:
        unit.value, unit.size = event.data.get("value"), event.data.get("size", 0)
        unit.node = event.data.get("node")
        self.size += unit.size
        self._note_effect(unit)
        self._end(unit, "completed", event)

    def _waived(self, unit: Unit, event: Event) -> None:
        unit.value, unit.size = event.data.get("value"), event.data.get("size", 0)
        self.size += unit.size
        self._end(unit, "waived", event)

    def _cancelled(self, unit: Unit, event: Event) -> None:
        self._note_effect(unit)
        self._end(unit, "cancelled", event)

    def _failed(self, unit: Unit, event: Event) -> None:
        unit.error = error = event.data["error"]
        if error["kind"] in _UNKNOWN or event.data.get("acted"):
            self._note_effect(unit)
        if error["kind"] == "lost":
            unit.losses += 1
        elif error["kind"] not in ("moved", "restarted"):
            unit.failures += 1
        if (retry_at := event.data.get("retry_at")) is not None:
            self._forget(unit)
            self.waiting.push(unit, retry_at)
            return
        if unit.step.on_failure == "fail" and not unit.undo:
            told = {**error, "step": unit.step.name, "item": unit.item}
            self._turn("failed", told, event.at)
        self._end(unit, "failed", event)

    def _uncertain(self, unit: Unit, event: Event) -> None:
        self._forget(unit)
        self._note_effect(unit)
        self._leave_slot(unit)
        unit.status, unit.error = "uncertain", event.data["error"]
        unit.finished_at = event.at
        self.uncertain[unit] = None
        self._admit(unit)

    def _released(self, unit: Unit, _event: Event) -> None:
        if unit.status == "uncertain":
            self.steps[unit.step.index].under_way += 0 if unit.undo else 1
        self._forget(unit)
        unit.failures = unit.losses = 0
        self._make_ready(unit)

    # ------------------------------------------------------------------ its parts

    def _forget(self, unit: Unit) -> None:
        """Takes the unit out of where its present status has put it."""
        self.waiting.discard(unit)
        for place in (self.active, self.startable, self.fresh, self.uncertain):
            place.pop(unit, None)

    def _make_ready(self, unit: Unit) -> None:
        unit.status = "ready"
        self.startable[unit] = self.fresh[unit] = None

    def _note_effect(self, unit: Unit) -> None:
        if not (unit.acted or unit.undo):
            unit.acted = True
            self._acted.append(unit)

    def _leave_slot(self, unit: Unit) -> None:
        if not unit.undo and unit.status in ("ready", "running", "waiting"):
            self.steps[unit.step.index].under_way -= 1

    def _admit(self, unit: Unit) -> None:
        if not unit.undo and self.goal is None:
            for admitted in self.steps[unit.step.index].admit():
                self._make_ready(admitted)

    def _end(self, unit: Unit, status: StepStatus, event: Event) -> None:
        self._forget(unit)
        self._leave_slot(unit)
        # earlier releases took answers to what has been given up: its step has counted it
        has_ended = unit.status == "failed"
        unit.status, unit.finished_at = status, event.at
        if unit.undo:
            self._next_undo()
            return
        if has_ended:
            return
        run = self.steps[unit.step.index]
        run.open -= 1
        if run.open == 0:
            run.close(event.at)
            self._close(run)
        else:
            self._admit(unit)

    def _end_whole(self, run: StepRun, what: str, event: Event) -> None:
        """A step that ends without running: its condition, or a fan-out over nothing."""
        self.due.pop(run.step.index, None)
        run.status = what  # type: ignore[assignment]  # the kinds of `due`
        run.output, run.finished_at = event.data.get("value"), event.at
        if what == "failed":
            run.error = error = event.data["error"]
            if run.step.on_failure == "fail":
                self._turn("failed", {**error, "step": run.step.name, "item": None}, event.at)
        self._close(run)

    def _close(self, run: StepRun) -> None:
        self.left -= 1
        if self.goal is not None:
            return
        for index in run.step.dependents:
            dependent = self.steps[index]
            dependent.remaining -= 1
            if dependent.remaining == 0:
                self._open(dependent)

    def _open(self, run: StepRun) -> None:
        ends = open_step(run, self.scope(), self.most_items)
        if ends is not None:
            self.due[run.step.index] = ends
            return
        for unit in run.admit():
            self._make_ready(unit)

    def _turn(self, goal: Goal, error: Mapping[str, Any] | None, at: float) -> None:
        if self.goal is not None:
            return
        self.goal, self.error = goal, error
        self.due.clear()
        for unit in (*self.startable, *self.waiting):
            unit.status = "cancelled"
        self.waiting.clear()
        self.startable.clear()
        self.fresh.clear()
        for unit in [each for each in self.uncertain if not each.may_be_at_it]:
            self._give_up(unit, at)

    def _give_up(self, unit: Unit, at: float) -> None:
        """Nobody knows what it did, and its workflow waits for no answer any more."""
        self._forget(unit)
        unit.status = "failed"
        run = self.steps[unit.step.index]
        run.open -= 1
        if run.open == 0:
            run.close(at)
            self._close(run)

    def _plan_undo(self) -> None:
        units = [Unit(u.step, u.item, undo=True) for u in self._acted if u.step.compensate]
        self.undo = {(unit.step.name, unit.item): unit for unit in units}
        self._undo_left = units
        self._next_undo()

    def _next_undo(self) -> None:
        if self._undo_left:
            self._make_ready(self._undo_left.pop())


_WORKFLOW_EVENTS: Mapping[str, Callable[[Machine, Event], None]] = {
    "submitted": Machine._submitted,
    "paused": Machine._paused,
    "resumed": Machine._resumed,
    "cancel_requested": Machine._cancel_requested,
    "deadline_passed": Machine._deadline_passed,
    "completed": Machine._finish,
    "failed": Machine._finish,
    "cancelled": Machine._finish,
}
_UNIT_EVENTS: Mapping[str, Callable[[Machine, Unit, Event], None]] = {
    "started": Machine._started,
    "completed": Machine._completed,
    "failed": Machine._failed,
    "timed_out": Machine._failed,
    "uncertain": Machine._uncertain,
    "released": Machine._released,
    "waived": Machine._waived,
    "cancelled": Machine._cancelled,
}
