"""What of a workflow can be started on its own: a step, an item of a fan-out, a compensation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.workflow.graph import Call, Step
from actors.workflow.sizes import kept_bytes
from ironcliw.schemas.workflows import StepStatus


class Unit:
    """One step, one item of a fan-out, or what undoes one of them.

    Attributes:
        step: The step.
        item: Index in the fan-out; None where the step is none.
        undo: Whether it is the compensation.
        status: `pending` until it may be started, then as in `StepStatus`.
        attempt: The last that was started; 0: none.
        failures: Attempts that count against the retry policy.
        losses: Attempts that were lost with their process or machine.
        retry_at: When a waiting unit is started again, in Unix seconds.
        idempotent: What its last start said.
        acted: It may have had an effect: it completed, or nobody knows how far it came.
        value: What it gave: JSON, or the mark of a result by reference.
        size: Bytes of `value`.
        error: Of the last failure.
        node: Where it ended.
        started_at: The last attempt, in Unix seconds.
        finished_at: When it ended.
    """

    __slots__ = (
        "acted",
        "attempt",
        "error",
        "failures",
        "finished_at",
        "idempotent",
        "item",
        "losses",
        "node",
        "retry_at",
        "size",
        "started_at",
        "status",
        "step",
        "undo",
        "value",
    )

    def __init__(self, step: Step, item: int | None, *, undo: bool = False) -> None:
        self.step = step
        self.item = item
        self.undo = undo
        self.status: StepStatus = "pending"
        self.attempt = 0
        self.failures = 0
        self.losses = 0
        self.retry_at: float | None = None
        self.idempotent = False
        self.acted = False
        self.value: Any = None
        self.size = 0
        self.error: Mapping[str, Any] | None = None
        self.node: str | None = None
        self.started_at: float | None = None
        self.finished_at: float | None = None

    def __repr__(self) -> str:
        item = "" if self.item is None else f"[{self.item}]"
        undo = "undo of " if self.undo else ""
        return f"<{undo}{self.step.name}{item} {self.status}, attempt {self.attempt}>"

    @property
    def call(self) -> Call:
        """What is done."""
        if not self.undo:
            return self.step.call
        assert self.step.compensate is not None, "only steps that can be undone have such a unit"
        return self.step.compensate

    @property
    def can_be_undone(self) -> bool:
        """Whether something undoes it."""
        return self.step.compensate is not None and not self.undo

    @property
    def may_be_at_it(self) -> bool:
        """Whether what undoes it must wait, as an attempt that was told to stop may not have."""
        told = self.error is not None and self.error["kind"] == "unstopped"
        return told and self.status == "uncertain" and self.can_be_undone

    @property
    def prefix(self) -> str:
        """With which the kinds of its events begin."""
        return "compensation" if self.undo else "step"


class StepRun:
    """One step of one workflow as it stands.

    Attributes:
        step: Its definition.
        remaining: Steps that it still waits for.
        status: Of a step without units; with units they say it.
        units: One, or one an item; None before the step's needs have ended, and where it was
            skipped, could not be opened, or has no items.
        items: What is fanned out over.
        open: Units that have not ended.
        admitted: Units that were let past `max_parallel`, and how many of them are under way.
        under_way: See `admitted`.
        output: Once it has ended.
        size: Bytes of the output.
        kept: Bytes of what it holds by reference.
        error: Why the step as a whole failed.
        finished_at: When it ended, in Unix seconds.
    """

    __slots__ = (
        "admitted",
        "error",
        "finished_at",
        "items",
        "kept",
        "open",
        "output",
        "remaining",
        "size",
        "status",
        "step",
        "under_way",
        "units",
    )

    def __init__(self, step: Step) -> None:
        self.step = step
        self.remaining = len(step.needs)
        self.status: StepStatus = "pending"
        self.units: list[Unit] | None = None
        self.items: Sequence[Any] | None = None
        self.open = 0
        self.admitted = 0
        self.under_way = 0
        self.output: Any = None
        self.size = self.kept = 0
        self.error: Mapping[str, Any] | None = None
        self.finished_at: float | None = None

    def unit(self, item: int | None) -> Unit | None:
        """The unit of that item, if there is one."""
        if self.units is None or (item is None) != (self.items is None):
            return None
        index = item or 0
        return self.units[index] if 0 <= index < len(self.units) else None

    def open_units(self, items: Sequence[Any] | None) -> None:
        """The step's needs have ended: make its units; `items` is not empty."""
        self.items = items
        if items is None:
            self.units = [Unit(self.step, None)]
        else:
            self.units = [Unit(self.step, index) for index in range(len(items))]
        self.open = len(self.units)

    def admit(self) -> list[Unit]:
        """Units that may be started now that could not before."""
        assert self.units is not None, "the step is open"
        room = len(self.units) - self.admitted
        if self.step.max_parallel is not None:
            room = min(room, self.step.max_parallel - self.under_way)
        first = self.admitted
        room = max(room, 0)
        self.admitted += room
        self.under_way += room
        admitted = self.units[first : first + room]
        for unit in admitted:
            unit.status = "ready"
        return admitted

    def close(self, at: float) -> None:
        """All units have ended: put the output together."""
        assert self.units is not None, "the step was open"
        self.output = (
            self.units[0].value if self.items is None else [unit.value for unit in self.units]
        )
        self.size = sum(unit.size for unit in self.units)
        self.kept = sum(kept_bytes(unit.value) for unit in self.units)
        self.finished_at = at
