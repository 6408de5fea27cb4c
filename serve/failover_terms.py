"""The words of failover: sides, what a request wants, how attempts end, what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ironcliw.catalog import Placement


class Side(StrEnum):
    """Where replicas run."""

    LOCAL = "local"
    SPOT = "spot"


class Phase(StrEnum):
    """State of the cloud's side."""

    ASLEEP = "asleep"
    WAKING = "waking"
    AWAKE = "awake"
    RESTING = "resting"


class Ending(StrEnum):
    """Why an attempt gave no answer."""

    LOST = "lost"
    """The replica died."""
    SILENT = "silent"
    """It said nothing for as long as an attempt may take."""
    SLOW = "slow"
    """The request's own time for this attempt was over, maybe in a queue."""
    LOADING = "loading"
    """The replica loads the model."""
    UNABLE = "unable"
    """The replica cannot run the model: no files, no memory."""
    OVERLOADED = "overloaded"
    """Too much waits there."""
    WITHDRAWN = "withdrawn"
    """It was not sent any more: the side no longer took requests."""


_WHY = {
    Ending.LOST: "a {side} replica was lost",
    Ending.SILENT: "{side} did not answer in time",
    Ending.SLOW: "{side} was too slow for the deadline",
    Ending.LOADING: "{side} is loading the model",
    Ending.UNABLE: "{side} cannot run the model",
    Ending.OVERLOADED: "{side} is overloaded",
    Ending.WITHDRAWN: "{side} no longer took requests",
}


@dataclass(frozen=True, slots=True)
class Want:
    """A request as the policy sees it.

    Attributes:
        model: Model id.
        placement: Of the model.
        fits_local: Whether it is in the memory at home, or would fit.
        deadline: Seconds.
    """

    model: str
    placement: Placement
    fits_local: bool
    deadline: float


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that gave no answer."""

    side: Side
    ending: Ending

    @property
    def why(self) -> str:
        """For the header `x-ironcliw-degraded`."""
        return _WHY[self.ending].format(side=self.side)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Ask this side.

    Attributes:
        side: Which.
        deadline: When to stop trying there.
        degraded: Why it is not the side where the answer belongs; None where it is.
    """

    side: Side
    deadline: float
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask `next` again then, or as soon as the state changes."""

    until: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody can answer.

    Attributes:
        reason: Why.
        retry_after: Seconds after which it may be over.
        by_state: The reason is the state of the cloud's side, not how the last attempt ended.
    """

    reason: str
    retry_after: float
    by_state: bool = False


class Route(NamedTuple):
    """Who answered.

    Attributes:
        variant: Group of replicas.
        node: Name of the machine; empty where it is not known.
        degraded: As of `Attempt`.
    """

    variant: str
    node: str
    degraded: str | None = None
