"""The mailbox against a plain model: order, bounds, overflow, and that nobody starves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.agents.mailbox import WAIT_BOUND, Mailbox, Overflow
from actors.agents.messages import Message, Priority, new_id
from ironcliw.errors import SettingsError

priorities = st.sampled_from(list(Priority))


def message(priority: int = Priority.NORMAL, deadline: float | None = None) -> Message:
    return Message(new_id(), "somebody", priority=priority, deadline=deadline)


def test_a_priority_goes_in_the_order_in_which_it_came() -> None:
    mailbox = Mailbox()
    sent = [message() for _ in range(10)]
    for one in sent:
        mailbox.put(one)
    assert [mailbox.take(0.0) for _ in sent] == sent
    assert mailbox.take(0.0) is None


def test_the_urgent_goes_first() -> None:
    mailbox = Mailbox()
    low, critical = message(Priority.LOW), message(Priority.CRITICAL)
    mailbox.put(low)
    mailbox.put(critical)
    assert [mailbox.take(0.0), mailbox.take(0.0)] == [critical, low]


@given(st.lists(priorities, min_size=1, max_size=40), st.lists(priorities, max_size=200))
def test_no_message_waits_for_more_than_the_bound(
    before: list[Priority], flood: list[Priority]
) -> None:
    """Whatever comes meanwhile, the head of a queue is taken within the bound."""
    mailbox = Mailbox(capacity=10_000)
    for priority in before:
        mailbox.put(message(priority))
    for _ in range(len(before) // 2):
        mailbox.take(0.0)
    watched = message(Priority.LOW)
    ahead = sum(1 for one in mailbox.drain() if mailbox.put(one).accepted and one.priority == 3)
    mailbox.put(watched)
    coming = iter([*flood, *[Priority.CRITICAL] * 10_000])
    for taken in range(WAIT_BOUND * (ahead + 1)):
        # one comes for each that goes, so that it never gets better by itself
        mailbox.put(message(next(coming)))
        if mailbox.take(0.0) is watched:
            return
        assert taken < WAIT_BOUND * (ahead + 1) - 1, "starved"


def test_shares_of_four_full_priorities() -> None:
    mailbox = Mailbox(capacity=1000)
    for priority in Priority:
        for _ in range(200):
            mailbox.put(message(priority))
    taken = [mailbox.take(0.0) for _ in range(85)]
    counts = [sum(one is not None and one.priority == p for one in taken) for p in Priority]
    assert counts == [64, 16, 4, 1]


def test_what_is_late_is_set_aside() -> None:
    mailbox = Mailbox()
    late, good = message(deadline=1.0), message(deadline=3.0)
    mailbox.put(late)
    mailbox.put(good)
    assert mailbox.take(2.0) is good
    assert mailbox.expired == [late]


def test_a_lane_without_a_free_hand_is_passed() -> None:
    mailbox = Mailbox()
    busy, free = message(Priority.HIGH), message(Priority.LOW)
    mailbox.put(busy, "a")
    mailbox.put(free, "b")
    assert mailbox.take(0.0, lambda lane: lane == "b") is free
    assert mailbox.take(0.0, lambda lane: lane == "b") is None
    assert mailbox.take(0.0) is busy


def test_lanes_keep_their_order_among_each_other() -> None:
    mailbox = Mailbox()
    sent = [message() for _ in range(6)]
    for index, one in enumerate(sent):
        mailbox.put(one, "ab"[index % 2])
    assert [mailbox.take(0.0) for _ in sent] == sent


def test_a_full_mailbox_refuses() -> None:
    mailbox = Mailbox(capacity=1)
    assert mailbox.put(message()).accepted
    assert not mailbox.put(message(Priority.CRITICAL)).accepted
    assert len(mailbox) == 1


def test_a_full_mailbox_drops_the_oldest_of_the_least_urgent() -> None:
    mailbox = Mailbox(2, Overflow.DROP_OLDEST)
    first, second, third = message(Priority.LOW), message(Priority.HIGH), message()
    mailbox.put(first)
    mailbox.put(second)
    assert mailbox.put(third) == (True, first)
    assert mailbox.put(message(Priority.LOW)) == (False, None)
    assert mailbox.drain() == [second, third]


@pytest.mark.parametrize(
    ("capacity", "overflow", "words"),
    [(0, "refuse", "at least one message, not 0"), (1, "burn", "'burn' is no overflow; give one")],
)
def test_bad_mailboxes(capacity: int, overflow: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Mailbox(capacity, overflow)


class MailboxMachine(RuleBasedStateMachine):
    """Any order of puts and takes: nothing is lost, doubled, or out of its priority's order."""

    def __init__(self) -> None:
        super().__init__()
        self.mailbox = Mailbox(8, Overflow.DROP_OLDEST)
        self.waiting: list[tuple[str, Message]] = []

    @rule(priority=priorities, lane=st.sampled_from(["", "a", "b"]))
    def put(self, priority: Priority, lane: str) -> None:
        one = message(priority)
        accepted, displaced = self.mailbox.put(one, lane)
        if displaced is not None:
            least = max(m.priority for _, m in self.waiting)
            assert displaced is next(m for _, m in self.waiting if m.priority == least)
            self.waiting = [(w, m) for w, m in self.waiting if m is not displaced]
        if accepted:
            self.waiting.append((lane, one))
        else:
            assert all(m.priority < priority for _, m in self.waiting)

    @precondition(lambda self: self.waiting)
    @rule(ready=st.sets(st.sampled_from(["", "a", "b"])))
    def take(self, ready: set[str]) -> None:
        found = self.mailbox.take(0.0, ready.__contains__)
        able = [(lane, m) for lane, m in self.waiting if lane in ready]
        assert (found is None) == (not able)
        if found is not None:
            assert found is next(m for _, m in able if m.priority == found.priority)
            self.waiting = [(w, m) for w, m in self.waiting if m is not found]

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.mailbox) == len(self.waiting) <= 8


TestMailboxMachine = MailboxMachine.TestCase
