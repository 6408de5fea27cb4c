"""What a step asks of the device: checked, in the order of the slots, cut into attention calls.

Matrix products do not care which sequence a token belongs to, so all tokens of a step go through
them at once. Attention does: single tokens of neighbouring slots share one padded call, a chunk of
a prompt is a call of its own.

A step is checked in plain lists: it is done between two steps, when the weights have pushed all
else out of the processor's caches, and forty small operations of numpy take 0.4 ms then.

Pure: numpy alone. N tokens of a step, R rows of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ironcliw.errors import ContextLengthError, OverloadedError, RequestError
from serve.generation.protocol import Step

MAX_WASTE = 256
"""Positions that padding may add to a call; reading so many takes as long as a call of its own."""

Index = npt.NDArray[np.int64]


class Run(NamedTuple):
    """The tokens of one slot in a step.

    Attributes:
        slot: Whose they are.
        start: The first one's index in the step.
        size: How many.
        length: Positions that the slot holds after the step.
    """

    slot: int
    start: int
    size: int
    length: int


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
            RequestError, ContextLengthError, OverloadedError: see `check`.
        """
        return by_slot(step, self.check(step, held))

    def check(self, step: Step, held: Index) -> list[Run]:
        """A step's runs, in its own order.

        Args:
            step: What is asked.
            held: int64 [slots], positions that each slot holds before it.

        Raises:
            RequestError: ids or slots that do not exist, a gap, or tokens in disorder.
            ContextLengthError: a position outside the context.
            OverloadedError: more positions than the cache can hold together.
        """
        slots, positions = step.slots.tolist(), step.positions.tolist()
        self._check_arrays(step, slots)
        lengths: list[int] = held.tolist()
        total = sum(lengths)
        runs = _runs(slots, positions)
        if len({run.slot for run in runs}) < len(runs):
            raise RequestError("the tokens of a slot must stand together; sort the step by slot")
        for run in runs:
            self._check_run(run, positions, lengths)
            total += run.length - lengths[run.slot]
        if total > self.kv_tokens:
            raise OverloadedError(
                f"the step would hold {total} positions and the cache has {self.kv_tokens}; "
                "free a slot first, or raise the cache's bytes"
            )
        return runs

    def _check_arrays(self, step: Step, slots: list[int]) -> None:
        tokens: list[int] = step.tokens.tolist()
        rows: list[int] = step.logit_rows.tolist()
        count = len(tokens)
        if count == 0 or len(step.positions) != count or len(slots) != count:
            raise RequestError(
                f"a step of {count} tokens, {len(step.positions)} positions and "
                f"{len(slots)} slots; it needs one or more, and as many of each"
            )
        if min(tokens) < 0 or max(tokens) >= self.vocabulary:
            at = next(i for i, token in enumerate(tokens) if not 0 <= token < self.vocabulary)
            raise RequestError(
                f"token {at} of the step is {tokens[at]}; this model's ids go from 0 to "
                f"{self.vocabulary - 1}"
            )
        if min(slots) < 0 or max(slots) >= self.slots:
            raise RequestError(
                f"the step names slots {min(slots)} to {max(slots)}; this decoder's go from 0 to "
                f"{self.slots - 1}"
            )
        if rows and (min(rows) < 0 or max(rows) >= count):
            raise RequestError(
                f"logit_rows {step.logit_rows!s:.60} do not name tokens of a step of {count}"
            )

    def _check_run(self, run: Run, positions: list[int], lengths: list[int]) -> None:
        first = positions[run.start]
        if positions[run.start : run.start + run.size] != list(range(first, run.length)):
            raise RequestError("the positions of a slot must rise by one from token to token")
        if not 0 <= first <= lengths[run.slot]:
            raise RequestError(
                f"slot {run.slot} holds {lengths[run.slot]} positions and the step goes on at "
                f"{first}; feed the positions between first"
            )
        if run.length > self.context:
            raise ContextLengthError(
                f"slot {run.slot} would hold {run.length} positions, this model reads "
                f"{self.context}; shorten the prompt"
            )


def by_slot(step: Step, runs: Sequence[Run]) -> Plan:
    """Lay out a checked step in the order of its slots."""
    tokens, positions, slots = step.tokens, step.positions, step.slots
    rows = step.logit_rows.astype(np.int64)
    ordered = sorted(runs)
    if ordered != list(runs):
        order = np.concatenate([np.arange(r.start, r.start + r.size) for r in ordered])
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        tokens, positions, slots, rows = tokens[order], positions[order], slots[order], place[rows]
    return Plan(
        tokens=tokens.astype(np.int64),
        positions=positions.astype(np.int64),
        slots=slots.astype(np.int64),
        rows=rows,
        spans=_spans([(run.slot, run.size, run.length) for run in ordered]),
        ends=tuple((run.slot, run.length) for run in ordered),
    )


def _runs(slots: list[int], positions: list[int]) -> list[Run]:
    """A slot's neighbouring tokens; where a slot comes twice, its tokens do not stand together."""
    starts = [0]
    starts += [at for at, (one, next_one) in enumerate(pairwise(slots), 1) if one != next_one]
    return [
        Run(slots[start], start, end - start, positions[start] + end - start)
        for start, end in pairwise([*starts, len(slots)])
    ]


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
