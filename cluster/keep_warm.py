"""Windows of the week in which one worker stays although nobody needs it. Pure.

A window is `DAYS HH:MM-HH:MM` in local time, as the setting `cloud.keep_warm` holds it; days are
`mon`, `mon-fri` (also over the weekend: `sat-tue`) or `daily`. One that ends at or before its
beginning ends on the next day, so `daily 22:00-06:00` is the night and `mon 00:00-00:00` all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ironcliw.errors import SettingsError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_WINDOW = re.compile(
    rf"(?:daily|(?P<first>{'|'.join(DAYS)})(?:-(?P<last>{'|'.join(DAYS)}))?)\s+"
    r"(?P<begin>\d\d?:\d\d)\s*-\s*(?P<end>\d\d?:\d\d)"
)


@dataclass(frozen=True, slots=True)
class KeepWarm:
    """A window: the days on which it begins (0 is Monday), its minute of the day, its length."""

    days: frozenset[int]
    begin: int
    minutes: int

    @classmethod
    def parse(cls, text: str) -> KeepWarm:
        """Read a window.

        Raises:
            SettingsError: it has another form, or a time of day that does not exist.
        """
        found = _WINDOW.fullmatch(text.strip().lower())
        times = [_minute(found[name]) for name in ("begin", "end")] if found else []
        if found is None or None in times:
            raise SettingsError(
                f"setting cloud.keep_warm holds {text!r}; write a window as 'mon-fri 09:00-18:00' "
                "or 'daily 22:00-06:00', in local time"
            )
        begin, end = (minute or 0 for minute in times)
        minutes = (end - begin) % _DAY_MINUTES or _DAY_MINUTES
        return cls(_days(found["first"], found["last"]), begin, minutes)

    def holds(self, moment: datetime) -> bool:
        """Whether a moment of local time is in the window; its first minute is, its last is not."""
        minute = moment.hour * 60 + moment.minute
        today = moment.weekday()
        if today in self.days and self.begin <= minute < self.begin + self.minutes:
            return True
        yesterday = (moment - timedelta(days=1)).weekday()
        return yesterday in self.days and minute < self.begin + self.minutes - _DAY_MINUTES


def is_warm(windows: Iterable[str], moment: datetime) -> bool:
    """Whether any window holds a moment of local time.

    Raises:
        SettingsError: a window cannot be read.

    >>> is_warm(["mon-fri 09:00-18:00"], datetime(2026, 1, 5, 17, 59))
    True
    """
    return any(window.holds(moment) for window in [KeepWarm.parse(text) for text in windows])


def _minute(text: str) -> int | None:
    hours, minutes = (int(part) for part in text.split(":"))
    if minutes > 59 or hours > 24 or (hours == 24 and minutes):
        return None
    return (hours * 60 + minutes) % _DAY_MINUTES


def _days(first: str | None, last: str | None) -> frozenset[int]:
    if first is None:
        return frozenset(range(7))
    begin = DAYS.index(first)
    count = (DAYS.index(last or first) - begin) % 7 + 1
    return frozenset((begin + offset) % 7 for offset in range(count))
