"""Windows of the week: their forms, their edges, and the nights between two days."""

from __future__ import annotations

import doctest
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import keep_warm
from cluster.keep_warm import DAYS, KeepWarm, is_warm
from ironcliw.errors import SettingsError

MONDAY = datetime(2026, 1, 5)
MINUTES = st.integers(0, 24 * 60 - 1)


def at(day: str, time: str) -> datetime:
    hours, minutes = map(int, time.split(":"))
    return MONDAY + timedelta(days=DAYS.index(day), hours=hours, minutes=minutes)


def test_the_example_in_the_docstring() -> None:
    result = doctest.testmod(keep_warm)
    assert (result.failed, result.attempted) == (0, 1)


@pytest.mark.parametrize(
    ("window", "day", "time", "warm"),
    [
        ("mon-fri 09:00-18:00", "mon", "8:59", False),
        ("mon-fri 09:00-18:00", "mon", "9:00", True),
        ("mon-fri 09:00-18:00", "fri", "17:59", True),
        ("mon-fri 09:00-18:00", "fri", "18:00", False),
        ("mon-fri 09:00-18:00", "sat", "12:00", False),
        ("daily 22:00-06:00", "wed", "23:00", True),
        ("daily 22:00-06:00", "wed", "5:59", True),
        ("daily 22:00-06:00", "wed", "6:00", False),
        ("fri 22:00-06:00", "sat", "5:59", True),
        ("fri 22:00-06:00", "fri", "5:59", False),
        ("sun 22:00-6:00", "mon", "1:00", True),
        ("sat-tue 10:00-11:00", "sun", "10:30", True),
        ("sat-tue 10:00-11:00", "wed", "10:30", False),
        ("mon 00:00-24:00", "mon", "23:59", True),
        ("mon 00:00-00:00", "tue", "0:00", False),
        (" Mon  9:00 - 10:00 ", "mon", "9:30", True),
    ],
)
def test_windows(window: str, day: str, time: str, warm: bool) -> None:
    assert is_warm([window], at(day, time)) is warm


def test_any_window_will_do_and_none_is_never_warm() -> None:
    windows = ["mon 9:00-10:00", "tue 9:00-10:00"]
    assert is_warm(windows, at("tue", "9:30"))
    assert not is_warm([], at("tue", "9:30"))


@pytest.mark.parametrize(
    "window",
    ["", "9:00-18:00", "mon 9-18", "mon 25:00-26:00", "mon 9:60-10:00", "mo 9:00-10:00",
     "daily-fri 9:00-10:00", "mon 24:01-1:00"],
)  # fmt: skip
def test_what_is_no_window_is_refused(window: str) -> None:
    with pytest.raises(SettingsError, match=r"cloud\.keep_warm holds .*write a window as"):
        is_warm([window], MONDAY)


@given(
    begin=MINUTES,
    end=MINUTES,
    first=st.integers(0, 6),
    count=st.integers(1, 7),
    minute=st.integers(0, 7 * 24 * 60 - 1),
)
def test_a_moment_is_warm_if_a_window_began_and_has_not_ended(
    begin: int, end: int, first: int, count: int, minute: int
) -> None:
    text = f"{DAYS[first]}-{DAYS[(first + count - 1) % 7]} {clock(begin)}-{clock(end)}"
    length = end - begin if end > begin else end - begin + 24 * 60
    begun = [(first + day) % 7 * 24 * 60 + begin for day in range(count)]
    # on a circle: the end of a week is the beginning of the next
    warm = any((minute - start) % (7 * 24 * 60) < length for start in begun)
    assert KeepWarm.parse(text).holds(MONDAY + timedelta(minutes=minute)) is warm


def clock(minute: int) -> str:
    return f"{minute // 60}:{minute % 60:02}"
