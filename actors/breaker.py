"""A circuit breaker for each capability: what keeps failing is not asked for a while.

Pure, without a clock. Of the libraries, pybreaker 1.4 and purgatory 3.0 were not taken: they
read a clock of their own and cannot say when they try again, which `retry_after` needs; pybreaker
lets every caller through meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from ironcliw.errors import UnavailableError

FAILURES = 8
"""So many in a row open it."""
PAUSE_SECONDS = 2.0
"""How long it stays open first; each trial that fails doubles it."""
LONGEST_PAUSE_SECONDS = 60.0


class BreakerState(StrEnum):
    """Whether messages pass."""

    CLOSED = "closed"
    """All pass."""
    OPEN = "open"
    """None pass."""
    TRIAL = "trial"
    """One has passed, and its end decides."""


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """A capability that one process does not ask for a while.

    Attributes:
        capability: its name.
        state: "open", or "trial" while one message decides.
        failures: so many in a row.
        seconds: until the next trial; 0: now.
    """

    capability: str
    state: str
    failures: int
    seconds: float


@dataclass(slots=True)
class Breaker:
    """Of one capability, seen by one process.

    Args:
        name: of the capability, for errors.
        failures: so many in a row open it.
        pause_seconds: how long it stays open first.
        longest_pause_seconds: the pause doubles up to this.
        on_change: called when it has opened, is tried, or has closed.
    """

    name: str
    failures: int = FAILURES
    pause_seconds: float = PAUSE_SECONDS
    longest_pause_seconds: float = LONGEST_PAUSE_SECONDS
    state: BreakerState = BreakerState.CLOSED
    on_change: Callable[[], None] = lambda: None
    _in_a_row: int = 0
    _pauses: int = 0
    _until: float = 0.0

    def enter(self, now: float) -> None:
        """Let one message pass; `now` is any monotonic clock, the same at each call.

        Raises:
            UnavailableError: the breaker is open, or its trial is on its way.
        """
        if self.state is BreakerState.CLOSED:
            return
        if self.state is BreakerState.OPEN and now >= self._until:
            self._turn(BreakerState.TRIAL)
            return
        raise UnavailableError(
            f"the capability {self.name!r} failed {self._in_a_row} times in a row and is not asked "
            "for a while; see the errors before this one",
            retry_after=max(0.1, self._until - now),
            code="circuit_open",
        )

    def succeeded(self) -> None:
        """It ended well."""
        self._in_a_row = self._pauses = 0
        self._turn(BreakerState.CLOSED)

    def leave(self) -> None:
        """It did not happen: what was sent is sent again elsewhere."""
        if self.state is BreakerState.TRIAL:
            self._turn(BreakerState.OPEN)

    def failed(self, now: float) -> None:
        """It ended badly."""
        self._in_a_row += 1
        if self.state is BreakerState.TRIAL or (
            self.state is BreakerState.CLOSED and self._in_a_row >= self.failures
        ):
            pause = min(self.pause_seconds * 2**self._pauses, self.longest_pause_seconds)
            self._pauses = min(self._pauses + 1, 32)
            self._until = now + pause
            self._turn(BreakerState.OPEN)

    def _turn(self, state: BreakerState) -> None:
        if state is not self.state:
            self.state = state
            self.on_change()

    def seen(self, now: float) -> OpenCircuit | None:
        """How it stands, for people; None: messages pass."""
        if self.state is BreakerState.CLOSED:
            return None
        left = max(0.0, self._until - now)
        return OpenCircuit(self.name, self.state.value, self._in_a_row, left)

    def ended(self, now: float, *, failed: bool) -> None:
        """It ended, in an error that may be no fault of the capability."""
        if failed:
            self.failed(now)
        else:
            self.succeeded()


@dataclass(slots=True)
class Breakers:
    """Those of one process, made when they are needed."""

    _found: dict[str, Breaker] = field(default_factory=dict)
    on_change: Callable[[], None] = lambda: None
    """Called when one has opened, is tried, or has closed."""

    def of(self, capability: str | None) -> Breaker:
        """That of a capability; messages without one share none, and get one that never opens."""
        if capability is None:
            return Breaker("")
        if (found := self._found.get(capability)) is None:
            found = Breaker(capability, on_change=lambda: self.on_change())
            self._found[capability] = found
        return found

    def open_now(self, now: float) -> list[OpenCircuit]:
        """How those stand that are not closed; `now` as at `Breaker.enter`."""
        return [one for each in self._found.values() if (one := each.seen(now)) is not None]

    def open(self) -> list[str]:
        """Capabilities that are not asked now."""
        return sorted(n for n, one in self._found.items() if one.state is not BreakerState.CLOSED)
