"""What a step asks of the device: checked, in the order of the slots, cut into attention calls.

Matrix products do not care which sequence a token belongs to, so all tokens of a step go through
them at once. Attention does: single tokens of neighbouring slots share one padded call, a chunk of
a prompt is a call of its own.

Pure: numpy alone. N tokens of a step, R rows of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ironcliw.errors import ContextLengthError, OverloadedError, RequestError
from serve.generation.protocol import Step

MAX_WASTE = 256
"""Positions that padding may add to a call; reading so many takes as long as a call of its own."""

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens that attention takes in one call.

    Attributes:
        start: First token, in the plan's order.
        slot: First slot.
        lengths: Positions held after the step, of each of the slots from `slot` on.
        count: Tokens of each slot: 1 where there are several slots.
    """

    start: int
    slot: int
    lengths: tuple[int, ...]
    count: int

    @property
    def end(self) -> int:
        """One behind the last token."""
        return self.start + self.count * len(self.lengths)

    @property
    def longest(self) -> int:
        """Positions that the call reads, padding included."""
        return max(self.lengths)


@dataclass(frozen=True, slots=True)
class Plan:
    """A step in the order of its slots.

    Attributes:
        tokens: int64 [N].
        positions: int64 [N].
        slots: int64 [N].
        rows: int64 [R], the tokens whose logits are wanted, in the order they were asked for.
        spans: In the order of the tokens, covering them all.
        ends: Slot and its length after the step.
    """

    tokens: Index
    positions: Index
    slots: Index
    rows: Index
    spans: tuple[Span, ...]
    ends: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Of one decoder; see the properties of `Decoder`."""

    vocabulary: int
    context: int
    slots: int
    kv_tokens: int

    def plan(self, step: Step, held: Index) -> Plan:
        """Check a step and lay it out.

        Args:
            step: What is asked.
            held: int64 [slots], positions that each slot holds before it.

        Raises:
            RequestError: ids or slots that do not exist, a gap, or tokens in disorder.
            ContextLengthError: a position outside the context.
            OverloadedError: more positions than the cache can hold together.
        """
        self._check_arrays(step)
        starts = _run_starts(step.slots)
        slots, firsts = step.slots[starts], step.positions[starts]
        counts = np.diff(starts, append=len(step.slots))
        self._check_runs(step, starts, counts, held)
        ends = firsts + counts
        total = int(held.sum() - held[slots].sum() + ends.sum())
        if total > self.kv_tokens:
            raise OverloadedError(
                f"the step would hold {total} positions and the cache has {self.kv_tokens}; "
                "free a slot first, or raise the cache's bytes"
            )
        order = _order(slots, starts, counts)
        tokens, positions, rows = step.tokens, step.positions, step.logit_rows.astype(np.int64)
        token_slots = step.slots
        if order is not None:
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            tokens, positions, token_slots = tokens[order], positions[order], token_slots[order]
            rows = place[rows]
        runs = sorted(zip(slots.tolist(), counts.tolist(), ends.tolist(), strict=True))
        return Plan(
            tokens=tokens.astype(np.int64),
            positions=positions.astype(np.int64),
            slots=token_slots.astype(np.int64),
            rows=rows,
            spans=_spans(runs),
            ends=tuple((slot, end) for slot, _, end in runs),
        )

    def _check_arrays(self, step: Step) -> None:
        tokens, count = step.tokens, len(step.tokens)
        if count == 0 or len(step.positions) != count or len(step.slots) != count:
            raise RequestError(
                f"a step of {count} tokens, {len(step.positions)} positions and "
                f"{len(step.slots)} slots; it needs one or more, and as many of each"
            )
        wrong = np.flatnonzero((tokens < 0) | (tokens >= self.vocabulary))
        if len(wrong):
            raise RequestError(
                f"token {int(wrong[0])} of the step is {int(tokens[wrong[0]])}; this model's ids "
                f"go from 0 to {self.vocabulary - 1}"
            )
        if step.slots.min() < 0 or step.slots.max() >= self.slots:
            raise RequestError(
                f"the step names slots {int(step.slots.min())} to {int(step.slots.max())}; this "
                f"decoder's go from 0 to {self.slots - 1}"
            )
        rows = step.logit_rows
        if len(rows) and (rows.min() < 0 or rows.max() >= count):
            raise RequestError(f"logit_rows {rows!s:.60} do not name tokens of a step of {count}")

    def _check_runs(self, step: Step, starts: Index, counts: Index, held: Index) -> None:
        slots, firsts = step.slots[starts], step.positions[starts]
        if len(np.unique(slots)) != len(slots):
            raise RequestError("the tokens of a slot must stand together; sort the step by slot")
        expected = np.repeat(firsts - starts, counts) + np.arange(len(step.slots))
        if not np.array_equal(expected, step.positions):
            raise RequestError("the positions of a slot must rise by one from token to token")
        gaps = np.flatnonzero((firsts > held[slots]) | (firsts < 0))
        if len(gaps):
            slot = int(slots[gaps[0]])
            raise RequestError(
                f"slot {slot} holds {int(held[slot])} positions and the step goes on at "
                f"{int(firsts[gaps[0]])}; feed the positions between first"
            )
        ends = firsts + counts
        if ends.max() > self.context:
            slot = int(slots[ends.argmax()])
            raise ContextLengthError(
                f"slot {slot} would hold {int(ends.max())} positions, this model reads "
                f"{self.context}; shorten the prompt"
            )


def _run_starts(slots: npt.NDArray[np.int32]) -> Index:
    """Where a slot's tokens begin: int64, first 0."""
    changes = np.flatnonzero(slots[1:] != slots[:-1]) + 1
    return np.concatenate((np.zeros(1, np.int64), changes))


def _order(slots: npt.NDArray[np.int32], starts: Index, counts: Index) -> Index | None:
    """The tokens' indices in the order of their slots; None where they stand so already."""
    if (slots[1:] > slots[:-1]).all():
        return None
    runs = np.argsort(slots, kind="stable")
    return np.concatenate([np.arange(starts[r], starts[r] + counts[r]) for r in runs])


def _spans(runs: Sequence[tuple[int, int, int]]) -> tuple[Span, ...]:
    """Runs (slot, tokens, length) to calls: neighbours with one token share one.

    Greedy: a slot joins while the padding that this adds is below what a call costs.
    """
    spans: list[Span] = []
    start = 0
    group: list[tuple[int, int, int]] = []
    for run in runs:
        if group and not _joins(group, run):
            spans.append(_span(start, group))
            start, group = spans[-1].end, []
        group.append(run)
    spans.append(_span(start, group))
    return tuple(spans)


def _joins(group: Sequence[tuple[int, int, int]], run: tuple[int, int, int]) -> bool:
    slot, count, length = run
    last_slot, last_count, _ = group[-1]
    if count != 1 or last_count != 1 or slot != last_slot + 1:
        return False
    longest = max(end for _, _, end in group)
    padded = max(longest, length) * (len(group) + 1) - longest * len(group) - length
    return padded <= MAX_WASTE


def _span(start: int, group: Sequence[tuple[int, int, int]]) -> Span:
    return Span(start, group[0][0], tuple(end for _, _, end in group), group[0][1])
