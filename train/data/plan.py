"""Which rows an optimizer step reads, and how they are laid out. Pure: no state but the step.

    step -> rows of its batch -> logical shards -> micro-batches -> packed arrays

The number of shards is the run's, not the number of workers: a worker computes whole shards, so
the sums of gradients have the same terms however many workers there are. A run's position is its
step number: what a step reads follows from seed, step and data.

A micro-batch is rows one after the other without padding; `cu_seqlens` has their borders and
positions begin anew at each, so that no row sees another.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError, SettingsError
from train.data.order import order
from train.data.tokenized import TokenizedData

IGNORED = -100
"""The label of a position that is not supervised, as torch and `native_ops.loss_head` have it."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that are computed together.

    Attributes:
        rows: Their numbers in the data.
        tokens: Of all of them.
        supervised: Supervised tokens of all of them.
    """

    rows: tuple[int, ...]
    tokens: int
    supervised: int


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of a batch that one worker computes, whichever that is; may be empty."""

    micro_batches: tuple[MicroBatch, ...]

    @property
    def tokens(self) -> int:
        """Of all its rows."""
        return sum(batch.tokens for batch in self.micro_batches)


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step.

    Attributes:
        number: Counted from 0 over the whole run.
        epoch: Counted from 0.
        shards: As many as the plan has.
    """

    number: int
    epoch: int
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of all shards, sorted."""
        return tuple(sorted(row for batch in self._batches() for row in batch.rows))

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return sum(batch.tokens for batch in self._batches())

    @property
    def supervised(self) -> int:
        """Supervised tokens of all rows: what the sum of their losses is divided by."""
        return sum(batch.supervised for batch in self._batches())

    def _batches(self) -> list[MicroBatch]:
        return [batch for shard in self.shards for batch in shard.micro_batches]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A micro-batch as the model reads it.

    Attributes:
        tokens: int32 [T].
        positions: int32 [T]; 0 at the start of each row.
        cu_seqlens: int32 [R + 1]; where the rows begin, from 0 to T.
        longest: Tokens of the longest row.
        places: int64 [S]; the positions in T whose next token is supervised.
        targets: int64 [S]; those next tokens.
    """

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    cu_seqlens: npt.NDArray[np.int32]
    longest: int
    places: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 [T]: the token that follows each position where that is supervised, else -100."""
        found = np.full(len(self.tokens), IGNORED, np.int64)
        found[self.places] = self.targets
        return found


class StepPlan:
    """What each step of a run reads.

    Args:
        data: The rows.
        seed: Of the order.
        batch_size: Rows of a step; the last one of an epoch has the rest.
        shards: Logical parts of a step, at least as many as workers.
        micro_batch_tokens: Most tokens that are computed together.
        packing: Several rows in a micro-batch; otherwise one.
        whole_shards: All rows of a shard are one micro-batch, however long: they are compared with
            each other.

    Raises:
        SettingsError: a number is out of range.
        DataError: there are no rows, or one is longer than a micro-batch.
    """

    def __init__(
        self,
        data: TokenizedData,
        *,
        seed: int,
        batch_size: int,
        shards: int = 1,
        micro_batch_tokens: int = 4096,
        packing: bool = True,
        whole_shards: bool = False,
    ) -> None:
        given = {
            "batch_size": batch_size,
            "shards": shards,
            "micro_batch_tokens": micro_batch_tokens,
        }
        for name, value in given.items():
            if value < 1:
                raise SettingsError(f"{name} is {value}; give a number from 1")
        check_rows(data, micro_batch_tokens)
        self.seed = seed
        self.batch_size = batch_size
        self.shards = shards
        self.micro_batch_tokens = micro_batch_tokens
        self.packing = packing
        self.whole_shards = whole_shards
        self._lengths = data.lengths
        self._supervised = data.supervised_counts

    @property
    def steps_per_epoch(self) -> int:
        """The last, shorter batch included."""
        return -(-len(self._lengths) // self.batch_size)

    def step(self, number: int) -> Step:
        """What a step reads, counted from 0 over the whole run."""
        epoch, inside = divmod(number, self.steps_per_epoch)
        start = inside * self.batch_size
        rows = _order(self.seed, epoch, len(self._lengths))[start : start + self.batch_size]
        return Step(number, epoch, tuple(self._shard(part) for part in self._parts(rows)))

    def _parts(self, rows: npt.NDArray[np.int64]) -> list[list[int]]:
        """The batch in parts of as equal a number of tokens as longest-first gives."""
        parts: list[list[int]] = [[] for _ in range(self.shards)]
        loads = [0] * self.shards
        for row in self._longest_first(rows):
            lightest = loads.index(min(loads))
            parts[lightest].append(row)
            loads[lightest] += int(self._lengths[row])
        return parts

    def _longest_first(self, rows: npt.NDArray[np.int64]) -> list[int]:
        places = np.argsort(-self._lengths[rows], kind="stable")
        found: list[int] = rows[places].tolist()
        return found

    def _shard(self, rows: list[int]) -> Shard:
        """Longest first, each row into the first micro-batch that has room for it."""
        if self.whole_shards:
            return Shard((self._micro_batch(rows),) if rows else ())
        packed: list[list[int]] = []
        room: list[int] = []
        for row in rows:
            length = int(self._lengths[row])
            place = next((at for at, left in enumerate(room) if left >= length), None)
            if place is None or not self.packing:
                packed.append([row])
                room.append(self.micro_batch_tokens - length)
            else:
                packed[place].append(row)
                room[place] -= length
        return Shard(tuple(self._micro_batch(one) for one in packed))

    def _micro_batch(self, rows: Sequence[int]) -> MicroBatch:
        numbers = np.array(rows, np.int64)
        return MicroBatch(
            tuple(rows), int(self._lengths[numbers].sum()), int(self._supervised[numbers].sum())
        )


def shards_of(rank: int, workers: int, shards: int) -> range:
    """The shards that a worker computes.

    Args:
        rank: Of the worker, from 0.
        workers: How many there are.
        shards: Of the plan.

    Raises:
        SettingsError: there are more workers than shards.
    """
    if workers > shards:
        raise SettingsError(
            f"{workers} workers share {shards} logical shards, so some would have nothing to do; "
            f"start the run with at least {workers} shards, or with fewer workers"
        )
    return range(rank, shards, workers)


def in_order(data: TokenizedData, most_tokens: int, rows: int | None = None) -> list[MicroBatch]:
    """Rows in the order of the data, as many together as a micro-batch takes.

    Args:
        data: The rows.
        most_tokens: Of a micro-batch; a longer row is alone.
        rows: Only the first so many; None: all.
    """
    lengths, supervised = data.lengths, data.supervised_counts
    groups: list[list[int]] = []
    room = 0
    for row in range(len(data) if rows is None else min(rows, len(data))):
        length = int(lengths[row])
        if not groups or length > room:
            groups.append([])
            room = most_tokens
        groups[-1].append(row)
        room -= length
    return [
        MicroBatch(tuple(group), int(lengths[group].sum()), int(supervised[group].sum()))
        for group in groups
    ]


def pack(data: TokenizedData, batch: MicroBatch) -> PackedBatch:
    """The arrays of a micro-batch."""
    rows = [data.row(row) for row in batch.rows]
    lengths = np.array([len(row.tokens) for row in rows], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.concatenate([row.tokens for row in rows]).astype(np.int32, copy=False)
    positions = np.arange(len(tokens)) - np.repeat(starts[:-1], lengths)
    # the first token of a row is never supervised, so none is foretold by another row
    next_places = np.flatnonzero(np.concatenate([row.supervised for row in rows]))
    return PackedBatch(
        tokens,
        positions.astype(np.int32),
        starts.astype(np.int32),
        int(lengths.max()),
        next_places - 1,
        tokens[next_places].astype(np.int64),
    )


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    """The order, kept while its epoch lasts."""
    return order(seed, epoch, rows)


def check_rows(data: TokenizedData, most: int) -> None:
    """See that there are rows, and that a micro-batch has room for each.

    Args:
        data: The rows.
        most: Tokens of a micro-batch.

    Raises:
        DataError: there is none, or one has too many tokens.
    """
    if not len(data):
        raise DataError("there are no rows to train on; see what was left out of the data and why")
    longest = int(data.lengths.argmax())
    if data.lengths[longest] > most:
        raise DataError(
            f"{data.source(longest)} has {data.lengths[longest]} tokens, more than "
            f"micro_batch_tokens, {most}; raise it, or lower max_length"
        )
