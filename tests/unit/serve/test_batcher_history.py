"""The batcher under random histories: what is admitted runs once, within every limit."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ironcliw.errors import OverloadedError
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
TestBatcherHistory.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)
