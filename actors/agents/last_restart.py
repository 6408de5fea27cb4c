"""Why an agent was started again, the last time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

Cause = Literal["asked", "failed", "lost", "moved", "resumed"]
"""asked: somebody asked for it. lost: its process ended, which was no fault of its own. resumed:
the head was started again."""
COUNTED: frozenset[Cause] = frozenset({"failed", "lost"})
"""Those that something is wrong behind: they count as restarts of an agent."""


@dataclass(frozen=True, slots=True)
class LastRestart:
    """Why an agent was started again, the last time.

    Attributes:
        cause: in a word.
        reason: for people, such as how its process ended.
        at: Unix time at which that was known.
    """

    cause: Cause
    reason: str
    at: float

    def as_json(self) -> dict[str, Any]:
        """For people, and for the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: object) -> Self | None:
        """As the store has it; None: nothing that this release knows."""
        if not isinstance(found, Mapping) or found.get("cause") not in get_args(Cause):
            return None
        return cls(found["cause"], str(found.get("reason")), float(found.get("at", 0.0)))
