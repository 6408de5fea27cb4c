"""The batcher's order, estimates, refusals and cost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironcliw.errors import OverloadedError, RequestError, SettingsError
from serve.batcher import Batcher, BatchLimits, Priority

LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=12)


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


@settings(max_examples=50)
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
    # five ahead and itself, a second each, promised with a quarter more
    with pytest.raises(OverloadedError, match=r"the estimated end in 7\.[45]"):
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
    late = batcher.submit(1000.0, [1000], deadline=1003.0)
    wake = batcher.next_deadline()
    assert wake == pytest.approx(1001.75, abs=0.05)  # its latest start: 1.25 s before the deadline
    assert batcher.next(1001.6).shed == ()
    plan = batcher.next(1001.9)  # the batch in flight takes longer than it should
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
