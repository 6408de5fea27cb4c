"""The batcher's promises, mostly over random histories."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ironcliw.errors import OverloadedError, RequestError, SettingsError
from serve.batcher import Batch, Batcher, BatchLimits, Priority

LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=12)


class BatcherHistory(RuleBasedStateMachine):
    """A caller that does everything in any order, and keeps its own books."""

    @initialize(
        padded=st.booleans(),
        slots=st.integers(1, 3),
        eager=st.sampled_from([0, 40]),
        queue_seconds=st.sampled_from([0.5, 30.0]),
    )
    def start(self, padded: bool, slots: int, eager: int, queue_seconds: float) -> None:
        self.limits = BatchLimits(
            max_batch_tokens=64,
            max_batch_items=5,
            max_queue_tokens=600,
            max_queue_seconds=queue_seconds,
            slots=slots,
            eager_second_slot_tokens=eager,
            padded=padded,
        )
        self.batcher = Batcher(self.limits)
        self.now = 100.0
        self.lengths: dict[int, list[int]] = {}
        self.deadlines: dict[int, float | None] = {}
        self.waiting: dict[int, set[int]] = {}
        self.done: dict[int, set[int]] = {}
        self.begun: set[int] = set()
        self.gone: set[int] = set()  # cancelled, shed, expired or failed
        self.flying: dict[int, Batch] = {}

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.1, 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        lengths=LENGTHS,
        priority=st.sampled_from(Priority),
        within=st.none() | st.sampled_from([0.0, 0.05, 0.5, 5.0]),
    )
    def submit(self, lengths: list[int], priority: Priority, within: float | None) -> None:
        deadline = None if within is None else self.now + within
        before = self.batcher.stats(self.now)
        try:
            request = self.batcher.submit(self.now, lengths, priority=priority, deadline=deadline)
        except OverloadedError as error:
            assert error.retry_after > 0
            assert within == 0.0 or before.in_flight or before.waiting_items
            return
        assert request not in self.lengths
        self.lengths[request] = lengths
        self.deadlines[request] = deadline
        self.waiting[request] = set(range(len(lengths)))
        self.done[request] = set()

    @rule()
    def plan(self) -> None:
        while True:
            plan = self.batcher.next(self.now)
            for request in plan.shed:
                assert request not in self.begun
                assert self.deadlines[request] is not None
                assert plan.retry_after > 0
                self.lose(request)
            for request in plan.expired:
                deadline = self.deadlines[request]
                assert request in self.begun
                assert deadline is not None and deadline <= self.now
                self.lose(request)
            if plan.batch is None:
                break
            self.take(plan.batch)
        # never idle while something waits
        assert self.flying or not any(self.waiting.values())

    def take(self, batch: Batch) -> None:
        sizes = [self.lengths[request][item] for request, item in batch.items]
        cost = max(sizes) * len(sizes) if self.limits.padded else sum(sizes)
        assert batch.tokens == sum(sizes)
        assert len(sizes) == 1 or cost <= self.limits.max_batch_tokens
        assert len(sizes) <= self.limits.max_batch_items
        assert len(batch.queue_seconds) == len({r for r, _ in batch.items} - self.begun)
        assert min(batch.queue_seconds, default=0.0) >= 0
        for request, item in batch.items:
            assert request not in self.gone
            if not self.limits.padded:
                assert item == min(self.waiting[request])
            self.waiting[request].remove(item)  # KeyError: the item was already sent
            self.begun.add(request)
        self.flying[batch.id] = batch
        assert len(self.flying) <= self.limits.slots

    def lose(self, request: int) -> None:
        assert request not in self.gone
        assert len(self.done[request]) < len(self.lengths[request])
        self.gone.add(request)
        self.waiting[request] = set()

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), ok=st.sampled_from([True, True, True, False]))
    def finish(self, data: st.DataObject, ok: bool) -> None:
        batch = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying))))
        wanted = {request for request, _ in batch.items} - self.gone
        ended = self.batcher.finished(self.now, batch.id, ok=ok)
        assert len(ended) == len(set(ended))
        if not ok:
            assert set(ended) == wanted
            for request in ended:
                self.lose(request)
            return
        for request, item in batch.items:
            assert item not in self.done[request]
            self.done[request].add(item)
        assert set(ended) == {r for r in wanted if len(self.done[r]) == len(self.lengths[r])}

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def lose_replica(self, data: st.DataObject) -> None:
        batch = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying))))
        self.batcher.requeue(self.now, batch.id)
        for request, item in batch.items:
            if request not in self.gone:
                self.waiting[request].add(item)

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.lengths)))
        self.batcher.cancel(request)
        if request not in self.gone and len(self.done[request]) < len(self.lengths[request]):
            self.lose(request)

    @invariant()
    def books_agree(self) -> None:
        stats = self.batcher.stats(self.now)
        sizes = [self.lengths[r][i] for r, items in self.waiting.items() for i in items]
        assert (stats.waiting_items, stats.waiting_tokens) == (len(sizes), sum(sizes))
        assert stats.in_flight == len(self.flying)
        assert 0 <= stats.estimated_wait_seconds < math.inf

    @invariant()
    def wakes_in_time(self) -> None:
        living = [
            deadline
            for request, deadline in self.deadlines.items()
            if deadline is not None
            and request not in self.gone
            and len(self.done[request]) < len(self.lengths[request])
        ]
        wake = self.batcher.next_deadline()
        assert (wake is None) == (not living)
        assert wake is None or wake <= min(living)

    def teardown(self) -> None:
        """Whatever was admitted and not given up runs to its end."""
        if not hasattr(self, "batcher"):
            return
        self.plan()
        while self.flying:
            batch = self.flying.pop(min(self.flying))
            self.batcher.finished(self.now, batch.id, ok=True)
            for request, item in batch.items:
                self.done[request].add(item)
            self.plan()
        for request, lengths in self.lengths.items():
            assert request in self.gone or self.done[request] == set(range(len(lengths)))


TestBatcherHistory = BatcherHistory.TestCase
TestBatcherHistory.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


def drain(batcher: Batcher, now: float, rate: float = 10_000.0) -> list[tuple[int, int]]:
    """Serve what waits, one batch at a time, `rate` tokens a second; the items in order."""
    order: list[tuple[int, int]] = []
    while batch := batcher.next(now).batch:
        order += batch.items
        now += batch.tokens / rate
        batcher.finished(now, batch.id, ok=True)
    return order


def trained(limits: BatchLimits, *, fixed: float = 0.0, per_token: float = 0.001) -> Batcher:
    """A batcher that has seen batches of an engine with these costs, up to the second 1000."""
    batcher = Batcher(limits)
    now = 0.0
    for number in range(200):
        batcher.submit(now, [limits.max_batch_tokens if number % 2 else 1])
        batch = batcher.next(now).batch
        assert batch
        now += fixed + per_token * batch.tokens
        batcher.finished(now, batch.id, ok=True)
    assert now < 1000
    return batcher


@given(st.lists(st.tuples(LENGTHS, st.sampled_from(Priority)), min_size=1, max_size=20))
def test_at_one_moment_priority_then_arrival_decides(
    requests: list[tuple[list[int], Priority]],
) -> None:
    batcher = Batcher(BatchLimits(max_batch_tokens=64, slots=1))
    ids = [batcher.submit(0.0, lengths, priority=p) for lengths, p in requests]
    ranked = sorted(zip(ids, requests, strict=True), key=lambda pair: (pair[1][1], pair[0]))
    expected = [(i, item) for i, (lengths, _) in ranked for item in range(len(lengths))]
    assert drain(batcher, 0.0) == expected


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 1.0), st.integers(1, 50), st.booleans())
def test_a_low_item_goes_before_what_came_three_ages_later(
    age: float, batches_per_age: int, padded: bool
) -> None:
    limits = BatchLimits(
        max_batch_tokens=64, max_batch_items=4, slots=1, starvation_seconds=age, padded=padded
    )
    batcher = Batcher(limits)
    now = 0.0
    earlier = set()
    low = batcher.submit(now, [7], priority=Priority.LOW)
    for _ in range(200 * batches_per_age):
        # always more CRITICAL work than is served
        for length in (7, 31, 16, 16):
            request = batcher.submit(now, [length], priority=Priority.CRITICAL)
            if now <= 3 * age:
                earlier.add(request)
        batch = batcher.next(now).batch
        assert batch
        taken = [request for request, _ in batch.items]
        if low in taken:
            break
        # a padded batch is led by an item that outranks it, and filled by length
        assert earlier.issuperset(taken[:1] if padded else taken)
        now += age / batches_per_age
        batcher.finished(now, batch.id, ok=True)
    else:
        pytest.fail("the LOW item was never served")


def test_requeued_items_go_before_later_arrivals_whichever_batch_returns_first() -> None:
    batcher = Batcher(BatchLimits(max_batch_tokens=64, eager_second_slot_tokens=0))
    first = batcher.submit(0.0, [40, 40])
    one, two = batcher.next(0.0).batch, batcher.next(0.0).batch
    assert one and two
    later = batcher.submit(0.0, [40])
    batcher.requeue(0.1, one.id)
    batcher.requeue(0.1, two.id)
    assert drain(batcher, 0.1) == [(first, 0), (first, 1), (later, 0)]


def test_a_little_work_waits_to_be_joined_and_much_takes_the_second_slot() -> None:
    batcher = Batcher(BatchLimits(eager_second_slot_tokens=100))
    batcher.submit(0.0, [10])
    assert batcher.next(0.0).batch
    batcher.submit(0.0, [60])
    assert batcher.next(0.0).batch is None
    batcher.submit(0.0, [40])
    batch = batcher.next(0.0).batch
    assert batch and batch.tokens == 100
    batcher.submit(0.0, [1000])
    assert batcher.next(0.0).batch is None  # both slots are taken


def test_padded_batches_hold_near_lengths() -> None:
    batcher = Batcher(BatchLimits(max_batch_tokens=256, slots=1, padded=True))
    batcher.submit(0.0, [10, 200, 12, 90, 9, 17])
    batches = []
    while batch := batcher.next(0.0).batch:
        batches.append([item for _, item in batch.items])
        batcher.finished(0.0, batch.id, ok=True)
    assert batches == [[0, 2, 4, 5], [1], [3]]


def test_a_request_above_every_limit_is_served_when_it_comes_alone() -> None:
    batcher = Batcher(BatchLimits(max_batch_tokens=64, max_queue_tokens=100))
    request = batcher.submit(0.0, [500, 500])
    with pytest.raises(OverloadedError, match="1000 of at most 100 wait already"):
        batcher.submit(0.0, [1])
    assert drain(batcher, 0.0) == [(request, 0), (request, 1)]


def test_the_wait_is_learned_and_told() -> None:
    batcher = trained(BatchLimits(max_batch_tokens=1000), fixed=0.01, per_token=0.001)
    for _ in range(10):
        batcher.submit(1000.0, [1000])
    # ten batches of 0.01 + 1.0 s
    assert batcher.stats(1000.0).estimated_wait_seconds == pytest.approx(10.1, rel=0.02)
    assert batcher.next(1000.0).batch
    assert batcher.stats(1001.0).estimated_wait_seconds == pytest.approx(9.1, rel=0.02)


def test_a_queue_that_is_too_slow_refuses_with_the_time_until_there_is_room() -> None:
    batcher = trained(BatchLimits(max_batch_tokens=1000, max_queue_seconds=5.0))
    for _ in range(6):
        batcher.submit(1000.0, [1000])
    with pytest.raises(OverloadedError, match=r"estimated wait of (5\.9|6)") as caught:
        batcher.submit(1000.0, [1])
    assert caught.value.retry_after == pytest.approx(1.0, rel=0.1)


def test_a_full_queue_tells_the_time_until_the_request_fits() -> None:
    batcher = trained(BatchLimits(max_batch_tokens=1000, max_queue_tokens=3000))
    for _ in range(3):
        batcher.submit(1000.0, [1000])
    with pytest.raises(OverloadedError, match="2000 tokens do not fit") as caught:
        batcher.submit(1000.0, [2000])
    assert caught.value.retry_after == pytest.approx(2.0, rel=0.1)


def test_the_wait_counts_only_what_goes_first() -> None:
    batcher = trained(BatchLimits(max_batch_tokens=1000))
    for _ in range(5):
        batcher.submit(1000.0, [1000], priority=Priority.LOW)
    batcher.submit(1000.0, [1], priority=Priority.CRITICAL, deadline=1001.0)
    with pytest.raises(OverloadedError, match=r"the estimated end in (5\.9|6)"):
        batcher.submit(1000.0, [1000], priority=Priority.LOW, deadline=1003.0)


def test_nothing_is_refused_on_time_before_anything_was_measured() -> None:
    batcher = Batcher(BatchLimits(max_queue_seconds=0.001))
    for _ in range(50):
        batcher.submit(0.0, [1000], deadline=0.001)


def test_an_idle_engine_takes_a_request_that_the_estimate_would_refuse() -> None:
    batcher = trained(BatchLimits(max_batch_tokens=1000))
    probe = batcher.submit(1000.0, [1000], deadline=1000.5)  # estimated at 1 s
    batch = batcher.next(1000.0).batch
    assert batch and batch.items == ((probe, 0),)
    with pytest.raises(OverloadedError, match=r"the deadline is in 0\.5 s"):
        batcher.submit(1000.0, [1000], deadline=1000.5)


def test_what_can_no_longer_end_in_time_is_shed_early_and_never_started() -> None:
    batcher = trained(BatchLimits(max_batch_tokens=1000, slots=1))
    batcher.submit(1000.0, [1000])
    slow = batcher.next(1000.0).batch
    assert slow
    late = batcher.submit(1000.0, [1000], deadline=1002.5)
    wake = batcher.next_deadline()
    assert wake == pytest.approx(1001.5, abs=0.05)  # its latest start: 1 s before the deadline
    assert batcher.next(1001.4).shed == ()
    plan = batcher.next(1001.6)  # the batch in flight takes longer than it should
    assert plan.shed == (late,) and plan.expired == () and plan.retry_after > 0
    assert batcher.next_deadline() is None


def test_a_started_request_expires_at_its_deadline() -> None:
    batcher = Batcher(BatchLimits(max_batch_tokens=100, slots=1))
    request = batcher.submit(0.0, [100, 100], deadline=1.0)
    batch = batcher.next(0.0).batch
    assert batch
    assert batcher.next(0.999).expired == ()
    plan = batcher.next(1.0)
    assert plan.expired == (request,) and plan.shed == ()
    assert batcher.finished(1.1, batch.id, ok=True) == ()
    assert batcher.next(1.1).batch is None


def test_a_started_request_outlives_its_latest_start() -> None:
    batcher = trained(BatchLimits(max_batch_tokens=1000, slots=1))
    first = batcher.submit(1000.0, [1000])
    batch = batcher.next(1000.0).batch
    assert batch
    second = batcher.submit(1000.0, [500], deadline=1002.0)  # latest start: 1001.5
    assert batcher.finished(1001.0, batch.id, ok=True) == (first,)
    batch = batcher.next(1001.0).batch
    assert batch and batch.items == ((second, 0),)
    plan = batcher.next(1001.6)
    assert plan.expired == () and plan.shed == ()
    assert batcher.next_deadline() == 1002.0
    assert batcher.finished(1001.9, batch.id, ok=True) == (second,)


def test_a_passed_deadline_is_refused_even_when_idle() -> None:
    with pytest.raises(OverloadedError, match="before the request was queued"):
        Batcher().submit(5.0, [1], deadline=5.0)


def test_lone_short_requests_do_not_make_a_long_queue_look_slow() -> None:
    batcher = Batcher(BatchLimits())
    now = 0.0
    for number in range(100):
        batcher.submit(now, [8 + number % 5])
        batch = batcher.next(now).batch
        assert batch
        now += 0.005 + 0.0005 * (number % 5)  # noise that looks like a cost by length
        batcher.finished(now, batch.id, ok=True)
    batcher.submit(now, [20_000])
    assert batcher.stats(now).estimated_wait_seconds < 0.5


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_empty_items_are_refused(lengths: list[int]) -> None:
    with pytest.raises(RequestError, match="give items of at least one token"):
        Batcher().submit(0.0, lengths)


@pytest.mark.parametrize("name", ["max_batch_tokens", "slots", "starvation_seconds"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}=0 is not a limit"):
        BatchLimits(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("padded", [False, True])
def test_ten_thousand_requests_are_cheap(padded: bool) -> None:
    batcher = Batcher(BatchLimits(max_queue_tokens=10**9, padded=padded))
    begin = time.process_time()
    for number in range(10_000):
        batcher.submit(
            number * 1e-4, [1 + number % 97], priority=Priority(number % 4), deadline=100.0
        )
    assert len(drain(batcher, 1.0, rate=1e6)) == 10_000
    assert time.process_time() - begin < 1.0


def test_cancelled_requests_leave_no_litter() -> None:
    batcher = Batcher()
    batcher.submit(0.0, [2048])
    assert batcher.next(0.0).batch  # the engine hangs
    begin = time.process_time()
    for _ in range(10_000):
        batcher.cancel(batcher.submit(0.0, [1, 2, 3], deadline=50.0))
    assert time.process_time() - begin < 1.0
    assert batcher.next_deadline() is None
    assert sum(len(lane) for lane in batcher._waiting._lanes.values()) < 200
    assert len(batcher._timers) < 200
