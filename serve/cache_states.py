"""What the model cache speaks of: the state of a model, what is known of it, and instructions."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ironcliw.errors import IroncliwError, MemoryBudgetError


class State(StrEnum):
    """Where a model stands between disk and memory."""

    ABSENT = "absent"
    QUEUED = "queued"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


@dataclass(frozen=True, slots=True)
class Load:
    """Start to load; answer with `loaded` or `load_failed`."""

    model: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Free the engine; answer with `unloaded`."""

    model: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Whoever waits for the model has it now; each answers with `release`."""

    model: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Whoever waits for the model gets the error."""

    model: str
    error: IroncliwError


Instruction = Load | Unload | Ready | Refuse


@dataclass(slots=True)
class Entry:
    """What the cache knows of one model; kept while it is absent. Read it, do not write it.

    Attributes:
        bytes: Counted against the budget: the reservation while loading, then what was measured.
        excess: Bytes measured above the reservation, for which room is still being made.
        draining: To be unloaded once idle; requests since then wait for the next load.
        score: Uses so far, each halved every half-life since; `score_time` is when it was written.
        blocked_since: When a queued load began to wait for models in use only.
        refusal: What those who wait are told once the model is unloaded: it turned out too large.
        reload_seconds: Mean of the last load and the mean before it.
        last_error: Why the last load failed or was refused; None once a load succeeded.
    """

    model: str
    state: State = State.ABSENT
    users: int = 0
    waiting: int = 0
    estimate: int = 0
    measured: int = 0
    bytes: int = 0
    excess: int = 0
    pinned: bool = False
    draining: bool = False
    ttl: float | None = None
    loads: int = 0
    reload_seconds: float = 0.0
    score: float = 0.0
    score_time: float = 0.0
    idle_since: float = 0.0
    blocked_since: float | None = None
    refusal: MemoryBudgetError | None = None
    last_error: str | None = field(default=None, repr=False)

    @property
    def need(self) -> int:
        """Bytes that a load has to reserve."""
        return self.measured or self.estimate

    @property
    def idle(self) -> bool:
        """In memory and neither used nor pinned: it may be unloaded."""
        return self.state is State.READY and not self.users and not self.pinned

    def score_at(self, now: float, half_life: float) -> float:
        """The decayed number of uses at `now`."""
        return float(self.score * 0.5 ** ((now - self.score_time) / half_life))
