"""Why the cloud or the head does not answer: told once, and shown while it lasts."""

from __future__ import annotations

from typing import Any

from cluster.announcements import Announcements
from cluster.control.poller import Poller
from cluster.gce.errors import GceError
from ironcliw.errors import IroncliwError

_HEAD_STEP = (
    "if it stays so, see logs/ and `ironcliw doctor`; `ironcliw up` starts a head that is gone"
)


class Silence:
    """One party that is asked again and again, and may not answer.

    Args:
        kind: Of the event: `cloud` or `head`.
        who: Begins its sentence.
        longest: Answers that are older than so many seconds are of no use.
        announcements: Where it is told.
    """

    def __init__(self, kind: str, who: str, longest: float, announcements: Announcements) -> None:
        self._kind = kind
        self._who = who
        self._longest = longest
        self._announcements = announcements
        self._told = ""

    def check(self, *pollers: Poller[Any]) -> str:
        """Why one of them has no answer of use, and what to do; empty while all have one.

        Told when it begins and when it changes. A passing error, after which the answer before it
        still holds, is not told.
        """
        for poller in pollers:
            error = poller.error
            if error is not None and poller.fresh(self._longest) is None:
                why, topic = reason(error), _topic(error)
                if topic != self._told:
                    self._told = topic
                    self._announcements.add(self._kind, f"{self._who} does not answer: {why}")
                return why
        self._told = ""
        return ""


def reason(error: Exception) -> str:
    """What an error says, and the next step."""
    if isinstance(error, IroncliwError):
        return error.message
    return f"{type(error).__name__}: {error}; {_HEAD_STEP}"


def _topic(error: Exception) -> str:
    """What makes two errors the same: their words may hold a time or a number of tries."""
    if isinstance(error, GceError):
        return f"{error.kind} {error.code}"
    return type(error).__name__
