"""What the controller's decisions ask of the loop that carries them out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drain:
    """Drain a node; its machine ends in `seconds`."""

    node_id: str
    name: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a machine; `never_joined`: the next one of its kind would not join, either."""

    name: str
    zone: str
    reason: str
    never_joined: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """Have the autoscaler keep so many workers; 0: none for our sake."""

    workers: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Note an event about a machine; an empty name: about none."""

    kind: str
    message: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the report of a machine that is gone."""

    name: str


Instruction = Drain | Delete | Demand | Tell | Forget
