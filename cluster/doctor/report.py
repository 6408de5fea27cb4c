"""What a check of `ironcliw doctor` says: a state, what was found, and what to do about it."""

from __future__ import annotations

import dataclasses
from enum import StrEnum


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    NOT_NEEDED = "not needed"


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was checked, in a word or two.
        state: How it is.
        found: What there is, or why nobody looked.
        next_step: What to do; empty where nothing is wrong.
        passes: Nobody answered: it is not known whether anything is wrong, and time may tell.
    """

    name: str
    state: State
    found: str
    next_step: str = ""
    passes: bool = False

    def as_json(self) -> dict[str, str | bool]:
        """The check for programs; `may_pass` stands for `passes`, which reads like a verdict."""
        document = dataclasses.asdict(self)
        return {**document, "may_pass": document.pop("passes")}

    def __post_init__(self) -> None:
        wrong = self.state in (State.WARNING, State.ERROR)
        assert wrong == bool(self.next_step), f"{self}: a next step belongs to what is wrong"


def ok(name: str, found: str) -> Check:
    """Nothing is wrong."""
    return Check(name, State.OK, found)


def warning(name: str, found: str, next_step: str) -> Check:
    """It works, though not as well as it could, or not for ever."""
    return Check(name, State.WARNING, found, next_step)


def error(name: str, found: str, next_step: str) -> Check:
    """It does not work."""
    return Check(name, State.ERROR, found, next_step)


def not_needed(name: str, why: str) -> Check:
    """These settings do not need it."""
    return Check(name, State.NOT_NEEDED, why)
