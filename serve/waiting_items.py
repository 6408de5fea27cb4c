"""The items that wait for a batch: sorted, counted, and cheap to cancel. Pure data structure.

One heap a length bucket, of (rank, request, index) with the oldest rank first. A cancelled
request leaves its entries in the heaps; they are dropped when they surface, or all at once when
they outnumber the living.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Entry(NamedTuple):
    """One waiting item; sorts by rank, then by arrival, then by place in its request."""

    rank: float
    request: int
    item: int


@dataclass(slots=True)
class Request:
    """What the queue knows of one admitted request.

    Attributes:
        lengths: Tokens of each item.
        tokens: Their sum.
        submitted: Seconds.
        rank: Place in the order, seconds.
        deadline: Seconds, or None.
        probe: Admitted while idle: it measures the engine, so no estimate may drop it.
        started: One of its items was in a batch.
        waiting: Items that wait.
        waiting_tokens: Their tokens.
        slice: Where `WaitingItems` counts them.
        unfinished: Items that wait or are in flight.
    """

    lengths: Sequence[int]
    tokens: int
    submitted: float
    rank: float
    deadline: float | None
    probe: bool
    unfinished: int
    waiting: int = 0
    waiting_tokens: int = 0
    slice: int = 0
    started: bool = False


class WaitingItems:
    """Waiting items of living requests.

    Args:
        living: Requests by id, owned by the caller; one that leaves it is dead.
        slice_seconds: Resolution of `tokens_until`, in ranks.
        bucketed: Sort by length buckets (powers of two); else all items share bucket 0.

    Attributes:
        items: How many wait.
        tokens: Their tokens.
    """

    def __init__(
        self, living: Mapping[int, Request], slice_seconds: float, *, bucketed: bool
    ) -> None:
        self.items = 0
        self.tokens = 0
        self._living = living
        self._slice_seconds = slice_seconds
        self._bucketed = bucketed
        self._lanes: dict[int, list[Entry]] = {}
        self._dead = 0
        self._tokens_by_slice: dict[int, int] = {}

    def push(self, request_id: int, indexes: Sequence[int]) -> None:
        """Let these items of a living request wait."""
        request = self._living[request_id]
        request.slice = self._slice(request.rank)
        rank, tokens = request.rank, 0
        for index in indexes:
            length = request.lengths[index]
            tokens += length
            lane = self._lanes.setdefault(length.bit_length() if self._bucketed else 0, [])
            heapq.heappush(lane, Entry(rank, request_id, index))
        self._count(request, len(indexes), tokens)

    def buckets(self) -> list[int]:
        """Buckets that may hold something."""
        return list(self._lanes)

    def head(self, bucket: int) -> Entry | None:
        """The oldest living item of a bucket."""
        lane = self._lanes.get(bucket)
        while lane:
            if lane[0][1] in self._living:
                return lane[0]
            heapq.heappop(lane)
            self._dead -= 1
        self._lanes.pop(bucket, None)
        return None

    def pop(self, bucket: int) -> Entry:
        """Take what `head` has just shown."""
        entry = heapq.heappop(self._lanes[bucket])
        request = self._living[entry[1]]
        self._count(request, -1, -request.lengths[entry[2]])
        return entry

    def discard(self, request: Request) -> None:
        """Forget the waiting items of a request that has just left `living`."""
        self._dead += request.waiting
        self._count(request, -request.waiting, -request.waiting_tokens)
        if self._dead > self.items + 64:
            for lane in self._lanes.values():
                lane[:] = [entry for entry in lane if entry.request in self._living]
                heapq.heapify(lane)
            self._dead = 0

    def tokens_until(self, rank: float) -> int:
        """Waiting tokens ranked before `rank`, rounded up to a whole slice."""
        if rank == math.inf:
            return self.tokens
        last = self._slice(rank)
        return sum(tokens for number, tokens in self._tokens_by_slice.items() if number <= last)

    def _slice(self, rank: float) -> int:
        return math.floor(rank / self._slice_seconds)

    def _count(self, request: Request, items: int, tokens: int) -> None:
        request.waiting += items
        request.waiting_tokens += tokens
        self.items += items
        self.tokens += tokens
        slices, number = self._tokens_by_slice, request.slice
        slices[number] = slices.get(number, 0) + tokens
        if not slices[number]:
            del slices[number]
