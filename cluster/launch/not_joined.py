"""Launches pause where machines do not join: the next one costs as much and would not, either.

A key of the VPN that has expired, a wrong token, a full disk, a firewall: such a machine boots, is
paid, and goes, and the autoscaler orders another at its next tick. What is known stands in the log
of events, so that an autoscaler that starts again does not forget: which machines were launched
(with what image and versions, see `cluster.launch.mismatch`), which joined, and which never did.
After two in a row launches pause, for a time that doubles; then one machine alone is tried. The
first that joins ends this, and so does a new start of the head: somebody has mended it. No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cluster.events import Event
from cluster.launch.mismatch import FIT_FACT

NOT_JOINED = "not_joined"
"""Kind of the event that a machine went without having joined; the controller notes it."""
FAILURES = 2
"""In a row: one may have had bad luck with its disk, its network or a mirror."""
FIRST_SECONDS = 300.0
"""First pause: about what a try costs, so that waiting halves the bill at the least."""
LONGEST_SECONDS = 7200.0
"""Twelve tries a day. Of 15 minutes each they cost 0.20 USD on the default machine; and somebody
who mends the cause and does not restart the head waits no longer than this."""
TRY_SECONDS = 1800.0
"""A machine of which nothing was heard for so long holds up no other; it may join in 900 s."""
FORGOTTEN_SECONDS = 86_400.0
NEXT_STEP = (
    "look at the key of the VPN and its access rules, at cloud.token_secret, and at this machine's "
    "firewall (`ironcliw doctor`)"
)
# the head's clock was set back if an event is later than this
_CLOCK_STEP = timedelta(seconds=60)
_MOST_DOUBLINGS = 12

# A machine went, or was taken, for a reason that says nothing about the next one.
_EXCUSES = ("preempted", "deleted", "mismatch")
_ENDS = ("reaped", "left")
EVENT_KINDS = ("launch", "joined", NOT_JOINED, *_EXCUSES, *_ENDS)
"""Kinds that `held_by_failures` reads."""


@dataclass(slots=True)
class _Row:
    """Failures in a row; those of machines that were on their way together count as one round."""

    failures: int = 0
    rounds: int = 0
    round_at: datetime | None = None
    last: Event | None = None
    launched: dict[str, datetime] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)  # joined, or counted
    over: set[str] = field(default_factory=set)  # they hold up no other

    def add(self, event: Event, fit: str, excused: set[str]) -> None:
        name = str(event.facts.get("name", ""))
        if event.kind == "launch":
            if event.facts.get(FIT_FACT) == fit:
                self.launched[name] = event.at
            return
        if name not in self.launched:
            return
        self.over.add(name)
        if event.kind == "joined":
            self.failures, self.rounds, self.round_at, self.last = 0, 0, None, None
            self.settled.add(name)
        elif event.kind == NOT_JOINED and name not in self.settled | excused:
            self.settled.add(name)
            self.failures, self.last = self.failures + 1, event
            is_later = self.round_at is None or self.launched[name] > self.round_at
            if self.failures >= FAILURES and is_later:
                self.rounds, self.round_at = self.rounds + 1, event.at

    def on_trial(self, now: datetime) -> str | None:
        """A machine that was launched after the last failure, and may join still."""
        if self.last is None:
            return None
        since = max(self.last.at, now - timedelta(seconds=TRY_SECONDS))
        return next(
            (name for name, at in self.launched.items() if at > since and name not in self.over),
            None,
        )


def held_by_failures(
    fit: str, events: Sequence[Event], now: datetime, head_since: datetime | None
) -> str | None:
    """Why nothing is to be launched now; None: nothing is known against it.

    Args:
        fit: Of the machine in question, see `cluster.launch.mismatch.fit_of`.
        events: Those of `EVENT_KINDS`, newest first.
        now: Aware.
        head_since: When the head was started; None where nobody knows.
    """
    since = now - timedelta(seconds=FORGOTTEN_SECONDS)
    since = max(since, head_since or since)
    known = [one for one in reversed(events) if since <= one.at <= now + _CLOCK_STEP]
    excused = {str(one.facts.get("name")) for one in known if one.kind in _EXCUSES}
    row = _Row()
    for event in known:
        row.add(event, fit, excused)
    if row.failures < FAILURES or row.last is None:
        return None
    what = f"{row.failures} machines in a row never joined, the last: {row.last.message}"
    pause = min(FIRST_SECONDS * 2 ** min(row.rounds - 1, _MOST_DOUBLINGS), LONGEST_SECONDS)
    until = row.last.at + timedelta(seconds=pause)
    if now < until:
        return (
            f"no machine of this image is launched until {until:%Y-%m-%d %H:%M:%SZ}: {what}; for "
            "a try at once start the head again (`ironcliw down`, `ironcliw up`)"
        )
    if name := row.on_trial(now):
        return f"no further machine is launched until {name} has joined: {what}"
    return None
