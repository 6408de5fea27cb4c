"""Places where steps run: cores shared by what runs there, memory held by it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from rl.remaining import seconds_left
from rl.work import Step, Workflow

_DONE = 1e-6  # seconds of work that count as none


class State(Enum):
    """Of a task, in the order in which it passes through them; a loss leads back to WAITING."""

    BLOCKED = 0
    WAITING = 1
    BOUND = 2  # to a machine that is not ready
    RUNNING = 3
    DONE = 4


@dataclass(slots=True, eq=False)
class Task:
    """A step of the day as one simulation has it.

    Attributes:
        parents_left: That have not ended.
        share: Of its work that is left, up to 1.
        ready_at: When its last parent ended, or when it was lost; not when the machine that it was
            bound to never came.
        memory_floor: GB that it is known to need, once it ran out of memory.
        is_held: Whether it waits for something to happen before it is asked about again.
        is_timed: Whether it will be asked about again when it has waited too long.
    """

    step: Step
    workflow: Workflow
    parents_left: int
    state: State = State.BLOCKED
    share: float = 1.0
    ready_at: float = 0.0
    spot_losses: int = 0
    memory_floor: float = 0.0
    is_held: bool = False
    is_timed: bool = False


@dataclass(slots=True, eq=False)
class Run:
    """A task at a site.

    Attributes:
        left: Seconds of work, overhead included, at full rate.
        total: What `left` was at its start.
        overhead: Of that, before the work proper: loading and transfer.
        believed: What total was believed to be.
    """

    task: Task
    left: float
    total: float
    overhead: float
    believed: float

    def believed_left(self) -> float:
        """Seconds at full rate; the overhead is known, the work proper is believed."""
        done, step = self.total - self.left, self.task.step
        work = max(0.0, self.believed - self.overhead)
        worked = max(0.0, done - self.overhead)
        return max(0.0, self.overhead - done) + seconds_left(work, worked, step.duration_sigma)

    def progress(self) -> float:
        """Share of the work proper that is done."""
        work = self.total - self.overhead
        return max(0.0, self.total - self.left - self.overhead) / work if work > 0 else 1.0


class Site:
    """Steps that share cores: each runs at the same rate, at most 1."""

    def __init__(self, cores: float, memory_gb: float) -> None:
        self.cores = cores
        self.memory_gb = memory_gb
        self.runs: list[Run] = []
        self.rate = 1.0
        self.cores_wanted = 0.0
        self.used_gb = 0.0
        self.version = 0
        self._since = 0.0

    def advance(self, now: float) -> None:
        """Let the steps work until now."""
        done = (now - self._since) * self.rate
        if done > 0:
            for run in self.runs:
                run.left -= done
        self._since = now

    def add(self, run: Run) -> None:
        """Start a step; the site must have been advanced."""
        self.runs.append(run)
        self.cores_wanted += run.task.step.cores_wanted
        self.used_gb += run.task.step.memory_gb

    def remove(self, run: Run) -> None:
        """End a step; the site must have been advanced."""
        self.runs.remove(run)
        if self.runs:
            self.cores_wanted -= run.task.step.cores_wanted
            self.used_gb -= run.task.step.memory_gb
        else:
            self.cores_wanted = self.used_gb = 0.0  # without what adding floats left

    def settle(self, factor: float = 1.0) -> float:
        """Fix the rate anew; returns seconds until the first step ends, infinite without one.

        Args:
            factor: Of the rate; below 1 while the site swaps.
        """
        self.version += 1
        self.rate = factor * min(1.0, self.cores / self.cores_wanted) if self.runs else factor
        if not self.runs:
            return math.inf
        return max(0.0, min(run.left for run in self.runs)) / self.rate

    def ended(self) -> list[Run]:
        """Steps that have done their work."""
        return [run for run in self.runs if run.left <= _DONE * (1.0 + run.total)]

    def busy_seconds(self) -> float:
        """Believed, until all that runs has ended."""
        return max((run.believed_left() for run in self.runs), default=0.0) / self.rate


@dataclass(slots=True, eq=False)
class Machine:
    """A machine that was bought.

    Attributes:
        paid_from: From when it is not yet paid for; the least payment is counted beside.
        least_seconds: That a purchase costs at least, until they are over.
        is_real: False if the zone had none: nobody pays, and it never starts.
        bound: Tasks that start there once it is ready.
    """

    slot: int
    zone: int
    bought_at: float
    speed: float
    is_real: bool
    site: Site
    paid_from: float
    least_seconds: float
    is_ready: bool = False
    is_leaving: bool = False
    bound: list[Task] = field(default_factory=list)
    warm: set[str] = field(default_factory=set)
    idle_since: float = 0.0
