"""A workflow in a world without threads or clocks, in which the orchestrator can die at any moment.

The world knows what really happened (`effects`), the store what was committed (`stored`), the
machine what is known now. A crash forgets the machine, what was not committed, and what runs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.workflow import outcomes, requests
from actors.workflow.calls import task_of
from actors.workflow.events import Event
from actors.workflow.graph import Definition
from actors.workflow.machine import Machine
from actors.workflow.tasks import StepError, StepResult, StepTask
from actors.workflow.units import Unit
from ironcliw.errors import ConflictError, NotFoundError

Key = tuple[str, int | None, bool]
"""Step, item, and whether it is the compensation."""


def key_of(unit: Unit) -> Key:
    return unit.step.name, unit.item, unit.undo


@dataclass
class Running:
    """An attempt that an executor works on."""

    unit: Unit
    task: StepTask


@dataclass
class World:
    """One workflow, its store and its executors.

    Attributes:
        definition: Of the workflow.
        inputs: Of it.
        failures: Of a step: so many counted attempts of each item fail before one succeeds.
        deadline: In seconds from 0.
        stored: Committed events.
        effects: How often each step and item has really been done.
        started: How often an executor was handed each of them.
        free: How often it failed in a way that is known to have had no effect.
        granted: How often a user had it run again.
    """

    definition: Definition
    inputs: Mapping[str, Any]
    failures: Mapping[str, int] = field(default_factory=dict)
    deadline: float | None = None

    def __post_init__(self) -> None:
        self.now = 0.0
        self.stored: list[Event] = []
        self.effects: Counter[Key] = Counter()
        self.started: Counter[Key] = Counter()
        self.free: Counter[Key] = Counter()
        self.granted: Counter[Key] = Counter()
        self.pending: list[Event] = []
        self.waiting_effects: list[tuple[int, Callable[[], None]]] = []
        self.running: dict[tuple[Key, int], Running] = {}
        self.queue: list[Unit] = []
        self.machine = self.fresh()
        self.record(outcomes.submit(self.machine, self.now))
        self.commit()

    def fresh(self) -> Machine:
        return Machine("wf-1", self.definition, self.inputs, created_at=0.0, deadline=self.deadline)

    # what the shell does

    def record(self, events: Sequence[Event], effect: Callable[[], None] | None = None) -> None:
        self.pending.extend(events)
        if effect is not None:
            self.waiting_effects.append((len(self.stored) + len(self.pending), effect))
        if self.machine.goal is not None:
            end = len(self.stored) + len(self.pending)
            self.waiting_effects.append((end, self.stop_attempts))

    def commit(self, count: int | None = None) -> None:
        """The first so many pending events reach the disk, and what waited for them is done."""
        count = len(self.pending) if count is None else min(count, len(self.pending))
        self.stored.extend(self.pending[:count])
        del self.pending[:count]
        due = [effect for at, effect in self.waiting_effects if at <= len(self.stored)]
        self.waiting_effects = [
            entry for entry in self.waiting_effects if entry[0] > len(self.stored)
        ]
        for effect in due:
            effect()

    def start(self, limit: int = 1000) -> int:
        """Starts what may be started; gives how many that were."""
        self.queue += self.machine.take(self.now)
        started = 0
        while self.queue and started < limit:
            unit = self.queue.pop(0)
            if self.machine.may_start(unit):
                self._start(unit)
                started += 1
        return started

    def _start(self, unit: Unit) -> None:
        idempotent = bool(unit.call.idempotent)
        try:
            task = task_of(self.machine, unit, idempotent, "normal")
        except StepError as error:
            self.record(outcomes.refuse(self.machine, unit, error, self.now))
            return
        self.record(
            outcomes.start(self.machine, unit, idempotent, self.now),
            lambda: self._launch(unit, task),
        )

    def _launch(self, unit: Unit, task: StepTask) -> None:
        self.started[key_of(unit)] += 1
        self.running[key_of(unit), task.attempt] = Running(unit, task)

    def stop_attempts(self) -> None:
        for (key, attempt), running in list(self.running.items()):
            if not running.unit.undo:
                del self.running[key, attempt]
                self.record(outcomes.stop(self.machine, running.unit, attempt, self.now))

    # what happens

    def finish(self, index: int = 0) -> None:
        """An executor ends its attempt: it fails as often as the plan says, then succeeds."""
        (key, attempt), running = list(self.running.items())[index % len(self.running)]
        del self.running[key, attempt]
        if running.unit.failures < self.failures.get(key[0], 0):
            self.free[key] += 1
            error = StepError("error", "as planned")
            self.record(outcomes.fail(self.machine, running.unit, attempt, error, self.now))
            return
        self.effects[key] += 1
        result = StepResult(value_of(running.task))
        self.record(outcomes.succeed(self.machine, running.unit, attempt, result, self.now))

    def lose(self, index: int, kind: Any, *, is_done: bool) -> None:
        """An attempt is lost, moved or timed out; perhaps its work was done all the same."""
        (key, attempt), running = list(self.running.items())[index % len(self.running)]
        del self.running[key, attempt]
        self.effects[key] += is_done
        error = StepError(kind, "it is gone")
        self.record(outcomes.fail(self.machine, running.unit, attempt, error, self.now))

    def crash(self, *, are_done: bool) -> None:
        """The orchestrator and all executors die; what ran may have been done all the same."""
        for key, _ in self.running:
            self.effects[key] += are_done
        self.running.clear()
        self.pending.clear()
        self.waiting_effects.clear()
        self.queue.clear()
        self.machine = self.fresh()
        for event in self.stored:
            self.machine.apply(event)
        self.record(outcomes.recover(self.machine, self.now))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.record(outcomes.settle(self.machine, self.now))

    def ask(self, request: Callable[..., list[Event]], *arguments: Any) -> bool:
        """Asks as a user; gives whether it was allowed."""
        try:
            self.record(request(self.machine, *arguments, self.now))
        except (ConflictError, NotFoundError):
            return False
        return True

    def retry_uncertain(self) -> None:
        """Users decide; what may still have been at it has ended by now."""
        for unit in list(self.machine.uncertain):
            if self.machine.goal is not None and not unit.undo:
                self.record(requests.skip(self.machine, unit.step.name, unit.item, None, self.now))
                continue
            self.granted[key_of(unit)] += 1
            self.record(requests.retry(self.machine, unit.step.name, unit.item, self.now))

    def run_to_the_end(self) -> None:
        """Lets everything go well from here on; users retry what is uncertain."""
        for _ in range(10_000):
            self.commit()
            if self.machine.finished is not None and not self.pending:
                return
            if self.machine.paused and self.machine.goal is None:
                self.ask(requests.resume)
            self.retry_uncertain()
            if self.start():
                continue
            if self.running:
                self.finish()
            elif not self.pending:
                at = self.machine.wake_at()
                assert at is not None, f"it hangs: {self.stuck()}"
                self.advance(max(at - self.now, 0.0))
        raise AssertionError(f"it does not end: {self.stuck()}")

    def stuck(self) -> str:
        units = [unit for run in self.machine.steps for unit in run.units or ()]
        return f"{self.machine.status}, {units}, {self.machine.undo}"


def value_of(task: StepTask) -> dict[str, Any]:
    """What a step gives: it depends on all that it was handed."""
    seen = json.dumps([task.step, task.item, task.inputs], sort_keys=True)
    digest = hashlib.sha256(seen.encode()).hexdigest()[:8]
    return {"digest": digest, "list": [digest[:2], digest[2:4]], "number": int(digest[4:6], 16)}


def picture(machine: Machine) -> Any:
    """All that a machine knows, to compare two of them."""
    return (
        machine.status,
        machine.next_seq,
        machine.goal,
        machine.paused,
        machine.error,
        machine.output,
        machine.left,
        machine.size,
        sorted(machine.due),
        sorted(map(repr, machine.active)),
        sorted(map(repr, machine.uncertain)),
        [
            (run.status, run.remaining, run.open, run.admitted, run.under_way, run.output)
            for run in machine.steps
        ],
        [_unit(unit) for run in machine.steps for unit in run.units or ()],
        [_unit(unit) for unit in (machine.undo or {}).values()],
    )


def _unit(unit: Unit) -> tuple[Any, ...]:
    # no event says that the time to wait is over
    status = "ready" if unit.status == "waiting" else unit.status
    return (
        unit.step.name,
        -1 if unit.item is None else unit.item,
        unit.undo,
        status,
        unit.attempt,
        unit.failures,
        unit.losses,
        unit.acted,
        json.dumps(unit.value),
    )
