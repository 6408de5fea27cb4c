"""The order of zones: what was refused rests, the rest is sorted."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.gce.errors import GceError, Kind
from cluster.launch.zones import HINT_SECONDS, LONGEST_SECONDS, SHORT_SECONDS, ZoneBook
from ironcliw.errors import ClusterError, NewerFormatError

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ZONES = ("us-central1-a", "us-central1-b", "us-central1-c")
A, B, C = ZONES
KINDS: tuple[Kind, ...] = get_args(Kind)
# those that rest one zone, and all; the former more often, since the latter hide what they do
MOSTLY_ZONAL: tuple[Kind, ...] = (*KINDS, "stockout", "stockout", "name", "name", "name")


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def refusal(kind: Kind = "stockout", zones: tuple[str, ...] = ()) -> GceError:
    return GceError("refused", kind=kind, code=kind.upper(), zones_available=zones)


def new_book(zones: tuple[str, ...] = ZONES) -> ZoneBook:
    return ZoneBook(zones, cooldown_seconds=300)


def order(book: ZoneBook, seconds: float = 0, **facts: dict[str, float]) -> list[str]:
    return book.order(later(seconds), facts.get("advice", {}))


def test_untouched_zones_come_as_they_are_set() -> None:
    assert order(new_book((C, A, B))) == [C, A, B]


def test_zone_without_capacity_rests_and_comes_back() -> None:
    book = new_book()
    book.failed(NOW, A, refusal())
    assert order(book, 299) == [B, C]
    assert order(book, 300) == [A, B, C]


def test_rest_doubles_up_to_an_hour() -> None:
    book, seconds, rests = new_book(), 0.0, []
    for _ in range(6):
        book.failed(later(seconds), A, refusal())
        rest = 1
        while A not in order(book, seconds + rest):
            rest += 1
        rests.append(rest)
        seconds += rest
    assert rests == [300, 600, 1200, 2400, 3600, 3600]


def test_two_refusals_on_their_way_at_once_count_as_one() -> None:
    book = new_book()
    book.failed(NOW, A, refusal())
    book.failed(later(1), A, refusal())
    assert A in order(book, 301)


def test_shorter_rest_does_not_end_a_longer_one() -> None:
    book = new_book()
    book.failed(NOW, A, refusal())
    book.failed(later(1), A, refusal("name"))
    assert order(book, 299) == [B, C]
    assert "no capacity" in book.reasons(later(299))[A]


def test_success_ends_the_doubling() -> None:
    book = new_book()
    book.failed(NOW, A, refusal())
    book.succeeded(later(400), A)
    book.failed(later(500), A, refusal())
    assert A in order(book, 800)


def test_quota_rests_the_whole_region() -> None:
    book = new_book((A, B, "us-east1-b"))
    book.failed(NOW, A, refusal("quota"))
    assert order(book, 299) == ["us-east1-b"]


@pytest.mark.parametrize("kind", ["rate", "unavailable", "auth"])
def test_trouble_with_the_api_rests_everything_for_a_short_time(kind: Kind) -> None:
    book = new_book()
    book.failed(NOW, A, refusal(kind))
    assert order(book, SHORT_SECONDS - 1) == []
    assert order(book, SHORT_SECONDS) == list(ZONES)


@pytest.mark.parametrize("kind", ["rate", "unavailable", "auth", "missing", "invalid", "other"])
def test_what_somebody_may_mend_never_rests_for_an_hour(kind: Kind) -> None:
    book, seconds = new_book(), 0
    for _ in range(20):
        book.failed(later(seconds), A, refusal(kind))
        seconds += 301
    assert order(book, seconds) == list(ZONES)


def test_zones_that_gce_names_go_first_for_a_time() -> None:
    book = new_book()
    book.failed(NOW, A, refusal(zones=(C, "us-west9-z")))
    assert order(book, HINT_SECONDS - 310) == [C, B]
    assert order(book, HINT_SECONDS + 1)[0] == A


def test_hint_is_over_when_its_zone_refuses() -> None:
    book = new_book()
    book.failed(NOW, A, refusal(zones=(C,)))
    book.failed(later(1), C, refusal())
    assert order(book, 302) == [A, B, C]


def test_hint_does_not_wake_a_zone_that_rests() -> None:
    book = new_book()
    book.failed(NOW, C, refusal())
    book.failed(NOW, A, refusal(zones=(C,)))
    assert order(book) == [B]


def test_advice_orders_and_noise_does_not() -> None:
    assert order(new_book(), advice={A: 0.1, B: 0.9, C: 0.1}) == [B, A, C]
    assert order(new_book(), advice={A: 0.49, B: 0.51, C: 0.52}) == [A, B, C]


def test_unknown_advice_is_one_half() -> None:
    assert order(new_book(), advice={A: 0.3, C: 0.7}) == [C, B, A]
    assert order(new_book(), advice={A: float("nan"), C: 0.7}) == [C, A, B]


def test_equal_zones_take_turns() -> None:
    book, turns = new_book(), []
    for second in range(6):
        turns.append(order(book, second)[0])
        book.succeeded(later(second), turns[-1])
    assert turns == [A, B, C, A, B, C]


def test_reason_says_what_and_until_when() -> None:
    book = new_book()
    book.failed(NOW, A, refusal())
    book.failed(later(301), A, refusal())
    assert book.reasons(later(302)) == {
        A: "no capacity (STOCKOUT), 2 times in a row; asked again after 2030-01-01 00:15:01Z"
    }


def test_wall_clock_set_back_does_not_lock_a_zone() -> None:
    book = new_book()
    book.failed(later(86_400 * 365), A, refusal(zones=(B,)))
    assert order(book) == [A, B, C]


@pytest.mark.parametrize(
    "damage",
    [
        {"rests": None},
        {"rests": {A: {"kind": "stockout"}}},
        {"hints": {A: "yesterday"}},
        {"used": {A: "2030-01-01T00:00:00"}},
        {"rests": {A: {"kind": "?", "code": "", "until": "", "seconds": 1, "failures": 1}}},
    ],
)
def test_damaged_state_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ClusterError, match="damaged"):
        ZoneBook.from_json({**new_book().to_json(), **damage}, ZONES, 300)


def test_newer_state_is_refused() -> None:
    with pytest.raises(NewerFormatError, match="format 2"):
        ZoneBook.from_json({"format_version": 2}, ZONES, 300)


@given(st.integers(1, 40), st.sampled_from(KINDS), st.floats(1, 1e5))
def test_no_rest_is_longer_than_it_may_be(failures: int, kind: Kind, cooldown: float) -> None:
    book, now = ZoneBook(ZONES, cooldown), NOW
    longest = timedelta(seconds=max(cooldown, LONGEST_SECONDS))
    for _ in range(failures):
        book.failed(now, A, refusal(kind))
        now += longest
        assert order(book, (now - NOW).total_seconds()) != []


class Histories(RuleBasedStateMachine):
    """Random refusals, successes, restarts and clocks, against what was promised."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.book = new_book()
        # moments until which a zone, or all of them, must not be offered: the shortest there is
        self.zones: dict[str, datetime] = {}
        self.all: list[datetime] = []

    @rule(seconds=st.sampled_from([1, 21, 100, 299, 301, 4000]))
    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(
        zone=st.sampled_from((A, B)),
        kind=st.sampled_from(MOSTLY_ZONAL),
        hint=st.sets(st.sampled_from(ZONES)),
    )
    def refuse(self, zone: str, kind: Kind, hint: set[str]) -> None:
        self.book.failed(self.now, zone, refusal(kind, tuple(sorted(hint))))
        long = kind in ("stockout", "quota", "missing", "invalid", "other")
        until = self.now + timedelta(seconds=300 if long else SHORT_SECONDS)
        if kind in ("quota", "rate", "unavailable", "auth"):
            self.all.append(until)
        else:
            self.zones[zone] = max(until, self.zones.get(zone, until))

    @rule(zone=st.sampled_from(ZONES))
    def succeed(self, zone: str) -> None:
        self.book.succeeded(self.now, zone)
        self.zones.pop(zone, None)
        self.all.clear()

    @rule()
    def restart(self) -> None:
        state = self.book.to_json()
        again = ZoneBook.from_json(json.loads(json.dumps(state)), ZONES, 300)
        assert again.to_json() == state
        self.book = again

    @invariant()
    def promises(self) -> None:
        offered = self.book.order(self.now, {})
        reasons = self.book.reasons(self.now)
        assert len(offered) == len(set(offered))
        assert set(offered) | set(reasons) == set(ZONES)
        assert not set(offered) & set(reasons)
        assert not offered or max(self.all, default=self.now) <= self.now
        assert not [zone for zone in offered if self.zones.get(zone, self.now) > self.now]


Histories.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestHistories = Histories.TestCase
