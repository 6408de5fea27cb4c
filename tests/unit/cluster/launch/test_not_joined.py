"""When launches pause because machines do not join: from events alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.events import Event
from cluster.launch.not_joined import (
    FIRST_SECONDS,
    FORGOTTEN_SECONDS,
    LONGEST_SECONDS,
    TRY_SECONDS,
    held_by_failures,
)

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
FIT = "f1"


class Story:
    """Events in their order, and what follows from them."""

    def __init__(self) -> None:
        self.now = START
        self.events: list[Event] = []
        self.head_since: datetime | None = None

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def tell(self, kind: str, name: str, fit: str | None = None) -> None:
        facts = {"name": name} | ({"fit": fit} if fit else {})
        self.events.insert(0, Event(self.now, kind, f"{name}: the disk is full", facts))

    def launch(self, name: str, fit: str = FIT) -> None:
        self.tell("launch", name, fit)

    def fail(self, *names: str, after: float = 60.0) -> None:
        """Launched together, and gone together."""
        for name in names:
            self.launch(name)
        self.wait(after)
        for name in names:
            self.tell("not_joined", name)

    def held(self, fit: str = FIT) -> str | None:
        return held_by_failures(fit, self.events, self.now, self.head_since)

    def pause(self) -> float:
        """Seconds until a machine may be launched again."""
        began = self.now
        while self.held() is not None:
            assert self.now - began <= timedelta(seconds=LONGEST_SECONDS)
            self.wait(60)
        return (self.now - began).total_seconds()


@pytest.fixture
def story() -> Story:
    return Story()


def test_one_failure_is_bad_luck(story: Story) -> None:
    story.fail("a")
    assert story.held() is None


def test_two_in_a_row_say_why_and_until_when(story: Story) -> None:
    story.fail("a")
    story.fail("b")
    held = story.held()
    assert held is not None
    assert "until 2026-01-15 12:07:00Z: 2 machines in a row never joined" in held
    assert "the last: b: the disk is full" in held
    assert "`ironcliw down`" in held


def test_the_pause_doubles_up_to_two_hours(story: Story) -> None:
    story.fail("a")
    pauses = []
    for number in range(8):
        story.fail(f"vm-{number}")
        pauses.append(story.pause())
    assert pauses == [300, 600, 1200, 2400, 4800, 7200, 7200, 7200]


def test_machines_that_were_on_their_way_together_are_one_round(story: Story) -> None:
    story.fail(*(f"vm-{number}" for number in range(10)))
    assert story.pause() == FIRST_SECONDS
    story.fail("x", "y")
    assert story.pause() == 2 * FIRST_SECONDS


def test_one_that_joined_ends_it(story: Story) -> None:
    story.fail("a", "b")
    story.launch("c")
    story.tell("joined", "c")
    assert story.held() is None
    story.fail("d")
    assert story.held() is None
    story.fail("e")
    assert story.pause() == FIRST_SECONDS


@pytest.mark.parametrize("kind", ["reaped", "left"])
def test_its_end_is_told_before_or_after(story: Story, kind: str) -> None:
    for name in "ab":
        story.launch(name)
        story.tell(kind, name)
        story.tell("not_joined", name)
        story.tell(kind, name)
    assert story.held() is not None


def test_another_image_is_another_matter(story: Story) -> None:
    story.fail("a", "b")
    assert story.held("f2") is None
    story.launch("c", "f2")
    story.tell("joined", "c")
    assert story.held() is not None


def test_after_the_pause_one_machine_is_tried_alone(story: Story) -> None:
    story.fail("a", "b")
    story.wait(FIRST_SECONDS)
    assert story.held() is None
    story.launch("c")
    assert "no further machine is launched until c has joined" in str(story.held())
    story.wait(TRY_SECONDS)
    assert story.held() is None


@pytest.mark.parametrize("kind", ["joined", "preempted", "deleted", "left", "reaped"])
def test_a_try_that_is_over_is_waited_for_no_longer(story: Story, kind: str) -> None:
    story.fail("a", "b")
    story.wait(FIRST_SECONDS)
    story.launch("c")
    story.tell(kind, "c")
    assert story.held() is None


@pytest.mark.parametrize("kind", ["preempted", "deleted", "mismatch"])
@pytest.mark.parametrize("is_late", [False, True])
def test_an_end_with_a_reason_of_its_own_does_not_count(
    story: Story, kind: str, is_late: bool
) -> None:
    for name in "abc":
        story.launch(name)
        for each in ("not_joined", kind) if is_late else (kind, "not_joined"):
            story.tell(each, name)
    assert story.held() is None


def test_one_machine_counts_once_and_not_after_it_joined(story: Story) -> None:
    story.fail("a")
    story.tell("not_joined", "a")
    assert story.held() is None
    story.launch("b")
    story.tell("joined", "b")
    story.tell("not_joined", "b")
    story.fail("c")
    assert story.held() is None


def test_a_new_start_of_the_head_tries_at_once(story: Story) -> None:
    story.launch("late")
    story.fail("a", "b")
    story.wait(1)
    story.head_since = story.now
    assert story.held() is None
    # launched for the head before
    story.tell("not_joined", "late")
    story.fail("c")
    assert story.held() is None
    story.fail("d")
    assert story.held() is not None


def test_it_is_forgotten_after_a_day(story: Story) -> None:
    for name in "abcdefgh":
        story.fail(name)
    story.wait(FORGOTTEN_SECONDS - 60)
    story.fail("x")
    assert story.held() is None


def test_a_clock_that_was_set_back_holds_nothing(story: Story) -> None:
    story.fail("a", "b")
    story.wait(-7200)
    assert story.held() is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["launch", "joined", "not_joined", "preempted", "deleted", "left"]),
            st.sampled_from("abcdef"),
            st.sampled_from([0, 1, 60, 900, 7200]),
        ),
        max_size=40,
    )
)
def test_no_history_holds_launches_for_ever(history: list[tuple[str, str, int]]) -> None:
    story = Story()
    for kind, name, seconds in history:
        story.wait(seconds)
        story.tell(kind, name, FIT if kind == "launch" else None)
    failed = {one.facts["name"] for one in story.events if one.kind == "not_joined"}
    if len(failed) < 2:
        assert story.held() is None
    story.wait(LONGEST_SECONDS)
    assert story.held() is None
