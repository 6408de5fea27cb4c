"""Decides which texts go to the engine together, and which requests are refused; no I/O, no clock.

    submit -> [waiting items, oldest first] -> next -> Batch in flight -> finished | requeue
                      |                                     |
                      +-- cancel, shed (429)                +-- cancel, expired (408): ignored

Order: an item's rank is its time of submission plus `starvation_seconds` for each level below
CRITICAL; the lowest rank goes first. So an item ages by one level per `starvation_seconds`, a LOW
item is overtaken only by what arrives within three times that after it, and equals go in order of
arrival. The rank never changes, so one heap a length bucket is all the queue there is.

Waiting items are counted in tokens (the cost of a packed engine); seconds are the caller's clock.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ironcliw.errors import OverloadedError, RequestError, SettingsError
from serve.service_time import ServiceTime
from serve.waiting_items import Entry, Request, WaitingItems

_SHORTEST_RETRY = 0.001
_CAUTION = 1.25  # at 2x overload, work that is admitted and then late is lost twice
"""Seconds; the resolution of the header `retry-after-ms`."""


class Priority(IntEnum):
    """How soon a request is wanted; a lower value goes first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one model's queue may hold and send.

    Raises:
        SettingsError: a limit is not positive (`eager_second_slot_tokens`: negative).
    """

    max_batch_tokens: int = 2048
    """Most tokens in one batch; a single longer item goes alone."""
    max_batch_items: int = 256
    """Most items in one batch."""
    max_queue_tokens: int = 400_000
    """Most waiting tokens; a larger request is admitted when nothing else waits."""
    max_queue_seconds: float = 30.0
    """Longest estimated wait before a request starts."""
    slots: int = 2
    """Batches in flight at once: the next one is at the replica while the current one computes."""
    eager_second_slot_tokens: int = 64
    """Fewest waiting tokens for which a slot beyond the first is used; fewer wait to be joined."""
    padded: bool = False
    """The engine pads to the longest item: a batch costs its longest length times its items."""
    starvation_seconds: float = 0.5
    """Waiting this long lifts an item by one priority level."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            may_be_zero = name in {"padded", "eager_second_slot_tokens"}
            if not (value > 0 or (value == 0 and may_be_zero)):
                raise SettingsError(f"{name}={value} is not a limit: give a positive number")


class Batch(NamedTuple):
    """One call to an engine.

    Attributes:
        id: Names the batch in `finished` and `requeue`.
        items: (request id, index in the request) of each item, in the order to compute.
        tokens: Sum of the items' lengths, padding not counted.
        started: When it was planned, seconds.
        queue_seconds: For each request that starts with this batch, how long it waited.
    """

    id: int
    items: tuple[tuple[int, int], ...]
    tokens: int
    started: float
    queue_seconds: tuple[float, ...]


class Plan(NamedTuple):
    """What to do now.

    Attributes:
        batch: To be sent to the engine; None when no slot is free or nothing waits.
        shed: Requests dropped before any of their items started (429).
        expired: Requests dropped after some of their items started (408).
        retry_after: Seconds until the queue of this moment is served, for the answers to `shed`.
    """

    batch: Batch | None
    shed: tuple[int, ...] = ()
    expired: tuple[int, ...] = ()
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The queue at one moment; `estimated_wait_seconds` is that of a LOW request sent now."""

    waiting_items: int
    waiting_tokens: int
    in_flight: int
    estimated_wait_seconds: float


class Batcher:
    """The queue of one model. `now` must never decrease from call to call.

    Every operation is O(log n) a touched item, amortised.
    """

    def __init__(self, limits: BatchLimits | None = None) -> None:
        self.limits = limits or BatchLimits()
        self._requests: dict[int, Request] = {}
        self._waiting = WaitingItems(
            self._requests, self.limits.starvation_seconds, bucketed=self.limits.padded
        )
        self._in_flight: dict[int, Batch] = {}
        self._timers: list[tuple[float, int]] = []  # (latest start or deadline, request)
        self._ids = itertools.count(1)
        self._last_finish = -math.inf
        self._service = ServiceTime(self.limits.max_batch_tokens)

    def submit(
        self,
        now: float,
        lengths: Sequence[int],
        *,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> int:
        """Queue one request of `len(lengths)` items of so many tokens; returns its id.

        An idle queue admits whatever is not past its deadline: a wrong estimate would otherwise
        refuse for ever the very requests that could correct it.

        Raises:
            RequestError: no items, or one without tokens.
            OverloadedError: the queue is full, the wait too long or the deadline out of reach.
        """
        if not lengths or min(lengths) < 1:
            raise RequestError(f"lengths {list(lengths)[:8]}: give items of at least one token")
        tokens = sum(lengths)
        rank = now + priority * self.limits.starvation_seconds
        probe = not self._in_flight and not self._waiting.items
        if deadline is not None and deadline <= now:
            raise OverloadedError(
                "the deadline passed before the request was queued: allow it more time",
                retry_after=self._retry_after(self._wait(now, rank)),
            )
        if not probe:
            self._admit(now, tokens, rank, deadline)
        request_id = next(self._ids)
        self._requests[request_id] = Request(
            lengths, tokens, now, rank, deadline, probe, unfinished=len(lengths)
        )
        self._waiting.push(request_id, range(len(lengths)))
        if deadline is not None:
            latest = self._latest_start(self._requests[request_id])
            heapq.heappush(self._timers, (latest, request_id))
        return request_id

    def next(self, now: float) -> Plan:
        """What to do now; call until it gives no batch.

        When nothing is in flight and something waits, there is always a batch, unless all that
        waits is shed by this call.
        """
        shed: list[int] = []
        expired: list[int] = []
        self._pass_deadlines(now, shed, expired)
        eager = self._waiting.tokens >= self.limits.eager_second_slot_tokens
        free = len(self._in_flight) < (self.limits.slots if eager else 1)
        batch = self._fill(now, shed) if free else None
        if not shed and not expired:
            return Plan(batch)
        retry_after = self._retry_after(self._wait(now, math.inf))
        return Plan(batch, tuple(shed), tuple(expired), retry_after)

    def finished(self, now: float, batch_id: int, *, ok: bool) -> tuple[int, ...]:
        """Free the slot; returns the requests that end with it: complete if `ok`, else failed."""
        batch = self._in_flight.pop(batch_id)
        if ok:
            # a batch that was sent behind another one starts when that one ends
            self._service.observe(batch.tokens, now - max(batch.started, self._last_finish))
        self._last_finish = now
        ended = []
        for request_id, _ in batch.items:
            request = self._requests.get(request_id)
            if request is None:
                continue
            request.unfinished -= 1
            if not ok or not request.unfinished:
                self._remove(request_id)
                ended.append(request_id)
        return tuple(ended)

    def requeue(self, now: float, batch_id: int) -> None:
        """Put what is still wanted of a lost batch back where it was, ahead of what came later."""
        batch = self._in_flight.pop(batch_id)
        self._last_finish = now
        for request_id, index in batch.items:
            if request_id in self._requests:
                self._waiting.push(request_id, (index,))

    def cancel(self, request_id: int) -> None:
        """Drop a request: waiting items never run, results in flight are ignored.

        A request that has just ended is unknown; cancelling it does nothing.
        """
        if request_id in self._requests:
            self._remove(request_id)

    def next_deadline(self) -> float | None:
        """When `next` must be called even if nothing else happens, to shed or expire."""
        while self._timers and self._timers[0][1] not in self._requests:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def in_flight_seconds(self, now: float) -> float | None:
        """Estimated time until all that is in flight is served; None until one batch was seen."""
        return self._remaining(now) if self._service.learned else None

    def stats(self, now: float) -> QueueStats:
        """Counters for metrics and status."""
        waiting, wait = self._waiting, self._wait(now, math.inf)
        return QueueStats(waiting.items, waiting.tokens, len(self._in_flight), wait)

    def _admit(self, now: float, tokens: int, rank: float, deadline: float | None) -> None:
        limits, waiting = self.limits, self._waiting
        excess = waiting.tokens + tokens - limits.max_queue_tokens
        if waiting.items and excess > 0:
            raise OverloadedError(
                f"{tokens} tokens do not fit: {waiting.tokens} of at most "
                f"{limits.max_queue_tokens} wait already; retry later or send fewer",
                retry_after=self._retry_after(self._service.queue(excess)),
            )
        wait = self._wait(now, rank)
        if wait > limits.max_queue_seconds:
            raise OverloadedError(
                f"the estimated wait of {wait:.3g} s is over the limit of "
                f"{limits.max_queue_seconds:g} s; retry later",
                retry_after=self._retry_after(wait - limits.max_queue_seconds),
            )
        end = now + self._cautious(wait + self._service.alone(tokens))
        if deadline is not None and end > deadline:
            raise OverloadedError(
                f"the deadline is in {deadline - now:.3g} s, the estimated end in "
                f"{end - now:.3g} s; retry later or allow more time",
                retry_after=self._retry_after(min(wait, end - deadline)),
            )

    def _wait(self, now: float, rank: float) -> float:
        """Estimated seconds until everything in flight or ranked before `rank` is served."""
        return self._remaining(now) + self._service.queue(self._waiting.tokens_until(rank))

    def _cautious(self, seconds: float) -> float:
        """An estimate that is to be promised: everything stretches while others want the cores."""
        return _CAUTION * seconds + self._service.margin

    def _remaining(self, now: float) -> float:
        """Estimated seconds until what is in flight is served."""
        if not self._in_flight:
            return 0.0
        oldest = next(iter(self._in_flight.values()))
        elapsed = now - max(oldest.started, self._last_finish)
        total = sum(self._service.alone(batch.tokens) for batch in self._in_flight.values())
        return max(0.0, total - elapsed)

    def _retry_after(self, seconds: float) -> float:
        """At least one batch's time, since no room appears sooner; 1 s before anything is known."""
        if not self._service.learned:
            return 1.0
        return max(seconds, self._service.alone(1), _SHORTEST_RETRY)

    def _pass_deadlines(self, now: float, shed: list[int], expired: list[int]) -> None:
        while self._timers and self._timers[0][0] <= now:
            request_id = heapq.heappop(self._timers)[1]
            request = self._requests.get(request_id)
            if request is None:
                continue
            latest = self._latest_start(request)
            if latest > now:
                heapq.heappush(self._timers, (latest, request_id))
                continue
            (expired if request.started else shed).append(request_id)
            self._remove(request_id)

    def _latest_start(self, request: Request) -> float:
        """When a waiting request is lost; once started, and for a probe, its deadline."""
        if request.deadline is None:
            return math.inf
        if request.started or request.probe:
            return request.deadline
        return request.deadline - self._cautious(self._service.alone(request.tokens))

    def _fill(self, now: float, shed: list[int]) -> Batch | None:
        """The next batch: in order of rank, up to the budget.

        A packed batch ends at the first item that does not fit. Skipping it would fill the batch
        better, but a batch costs what it holds, and long items would wait behind short ones for
        ever. A padded batch takes items of its first item's bucket, then of the two beside it.
        """
        if not self._waiting.items:
            return None
        remaining = self._remaining(now)
        ready = now + remaining
        tightest = math.inf  # a batch answers as a whole: it must end before its first deadline
        buckets = self._waiting.buckets()
        heads = [(entry, b) for b in buckets if (entry := self._head(b, ready, shed))]
        if not heads:
            return None
        first = min(heads)[1]
        items: list[tuple[int, int]] = []
        waits: list[float] = []
        tokens = longest = 0
        for bucket in (first, first - 1, first + 1) if self.limits.padded else (first,):
            while entry := self._head(bucket, ready, shed):
                request = self._requests[entry.request]
                length = request.lengths[entry.item]
                if items and not self._fits(len(items) + 1, tokens + length, max(longest, length)):
                    break
                tightest = min(tightest, self._promise(request))
                end = now + self._cautious(remaining + self._service.alone(tokens + length))
                if items and end > tightest:
                    break
                self._waiting.pop(bucket)
                longest = max(longest, length)
                items.append(entry[1:])
                tokens += length
                if not request.started:
                    request.started = True
                    waits.append(now - request.submitted)
        batch = Batch(next(self._ids), tuple(items), tokens, now, tuple(waits))
        self._in_flight[batch.id] = batch
        return batch

    def _head(self, bucket: int, ready: float, shed: list[int]) -> Entry | None:
        """First item of a bucket; sheds requests that can no longer end in time."""
        while entry := self._waiting.head(bucket):
            request = self._requests[entry.request]
            if request.started or request.probe or self._latest_start(request) >= ready:
                return entry
            shed.append(entry.request)
            self._remove(entry.request)
        return None

    def _promise(self, request: Request) -> float:
        """The deadline that the estimates said would be kept; none for a probe."""
        if request.deadline is None or request.probe:
            return math.inf
        return request.deadline

    def _fits(self, items: int, tokens: int, longest: int) -> bool:
        cost = longest * items if self.limits.padded else tokens
        return items <= self.limits.max_batch_items and cost <= self.limits.max_batch_tokens

    def _remove(self, request_id: int) -> None:
        self._waiting.discard(self._requests.pop(request_id))
        if len(self._timers) > 2 * len(self._requests) + 64:
            self._timers = [timer for timer in self._timers if timer[1] in self._requests]
            heapq.heapify(self._timers)
