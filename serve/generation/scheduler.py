"""Decides which tokens go to the decoder in each step; no I/O, no clock, no model.

    submit -> waiting --admitted to a slot--> reads its prompt in chunks -> decodes -> last delta
                 ^                                |                            |
                 +------------- preempted --------+----------------------------+

Rank: a job's rank is its time of submission plus `starvation_seconds` for each level of priority,
and never changes; smaller goes first. So every job is some day the first, and equals go in order
of arrival. Waiting jobs are admitted strictly by rank, so that a long prompt is not passed over.

Step: every sequence that has one token left to read goes in (the decoding ones; running streams
never wait for a prompt). Prompt chunks fill the rest, by rank: up to `max_chunk_tokens` where
nothing decodes, else as many as keep the step within `stall` times one without.

Memory: jobs are admitted when what they have so far fits in the decoder's `kv_tokens`. When the
running ones outgrow it, the one of the largest rank loses its slot and waits again; its prompt and
answer are read again later, so nothing of it is lost or said twice. The job of the smallest rank
is never preempted, and alone it fits, hence all end.

Between `next` and `finished` (or `failed`) one plan is in flight; jobs may come and go meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ironcliw.errors import OverloadedError, SettingsError
from serve.engines.protocol import Tokens
from serve.generation.protocol import (
    Delta,
    GenerationJob,
    GeneratorStats,
    LoadedAdapter,
    Step,
    TokenDraw,
)
from serve.generation.sampling import DrawContext, Scores
from serve.generation.sequences import DecoderFacts, JobSequence, make_sequence
from serve.generation.step_time import StepTime

_FIRST_CHUNK = 32
"""Prompt tokens beside running streams while nothing is known about the decoder's speed."""

_TILE = 16
"""Steps with chunks are cut to multiples of it: decoders pad to whole tiles anyway."""

_GAIN = 0.2  # of the newest interval between two ends, for retry_after


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """What one model's scheduler may hold and do.

    Raises:
        SettingsError: a limit is not positive, or the stall not above 1.
    """

    max_waiting: int = 256
    """Most jobs without a slot."""
    max_waiting_tokens: int = 400_000
    """Most tokens of theirs; a longer prompt is admitted when nothing else waits."""
    max_chunk_tokens: int = 512
    """Most prompt tokens in a step; cancelling, and other models, wait for the step's end."""
    min_chunk_tokens: int = 16
    """Fewest beside running streams, however slow: prompts must be read some day."""
    stall: float = 2.0
    """A step with a chunk may take so many times what the running streams' own step takes."""
    starvation_seconds: float = 5.0
    """Waiting this long lifts a job by one priority level."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            least = 1 if name == "stall" else 0
            if not value > least:
                raise SettingsError(f"{name}={value} is not a limit: give more than {least}")


class Plan(NamedTuple):
    """What the decoder is to do, in this order: free, begin, step.

    Attributes:
        free: Slots to be emptied.
        begin: (slot, source) of sequence-to-sequence jobs that start.
        step: The forward pass; None where nothing is to be computed.
        rows: The job of each logit row.
        contexts: How each row's token is drawn.
        fed: (job, tokens) of each sequence in the step.
        streams: Sequences with one token in the step.
        prompt_tokens: The step's other tokens.
        ended: Jobs whose answer was complete when they came; their delta is Delta(finish="length").
    """

    free: tuple[int, ...] = ()
    begin: tuple[tuple[int, Tokens], ...] = ()
    step: Step | None = None
    rows: tuple[int, ...] = ()
    contexts: tuple[DrawContext, ...] = ()
    fed: tuple[tuple[int, int], ...] = ()
    streams: int = 0
    prompt_tokens: int = 0
    ended: tuple[int, ...] = ()


class Scheduler:
    """The jobs of one decoder. `now` must never decrease from call to call.

    Args:
        facts: The decoder's sizes.
        limits: See `GenerationLimits`.
    """

    def __init__(self, facts: DecoderFacts, limits: GenerationLimits | None = None) -> None:
        self.facts = facts
        self.limits = limits or GenerationLimits()
        self._jobs: dict[int, JobSequence] = {}
        self._running: dict[int, JobSequence] = {}
        self._waiting: list[tuple[float, int]] = []  # a heap; a cancelled job's entry stays in it
        self._waiting_tokens = 0
        self._slots = list(range(facts.slots))[::-1]
        self._freed: list[int] = []
        self._ended: list[int] = []
        self._in_flight: Plan | None = None
        self._ids = itertools.count(1)
        self._time = StepTime()
        self._last_end: float | None = None
        self._interval: float | None = None
        self._prompt_tokens = self._generated_tokens = self._preemptions = self._steps = 0
        self._step_seconds = 0.0

    def submit(self, now: float, job: GenerationJob) -> int:
        """Queue a job; returns its id. Its `max_tokens` is cut to the room that there is.

        Raises:
            RequestError, ContextLengthError: see `make_sequence`.
            OverloadedError: too much waits already.
        """
        rank = now + job.priority * self.limits.starvation_seconds
        sequence = make_sequence(next(self._ids), job, rank, self.facts)
        if len(sequence.draw.generated) >= sequence.limit and not job.score_tokens:
            self._jobs[sequence.id] = sequence
            self._ended.append(sequence.id)
            return sequence.id
        self._check_room(sequence)
        self._jobs[sequence.id] = sequence
        self._wait(sequence)
        return sequence.id

    def cancel(self, job_id: int) -> None:
        """Forget a job, if it is still there; the next plan frees its slot."""
        if job_id in self._jobs:
            self._remove(job_id)

    def next(self) -> Plan | None:
        """What to do now; None when there is nothing. One plan at a time."""
        assert self._in_flight is None, "the last plan is still in flight"
        self._preempt()
        begin = self._admit()
        ended = tuple(job_id for job_id in self._ended if self._jobs.pop(job_id, None))
        self._ended.clear()
        plan = self._step()._replace(free=tuple(self._freed), begin=tuple(begin), ended=ended)
        self._freed.clear()
        if plan == Plan():
            return None
        self._in_flight = plan
        return plan

    def finished(
        self, now: float, plan: Plan, outcomes: Sequence[TokenDraw | Scores], seconds: float
    ) -> list[tuple[int, Delta]]:
        """Take in what a plan gave; the new deltas, by job.

        Args:
            now: Seconds.
            plan: The plan in flight.
            outcomes: One for each of `plan.rows`.
            seconds: What it took.
        """
        self._in_flight = None
        if plan.step is None:
            return []
        self._steps += 1
        self._step_seconds += seconds
        if not plan.begin:
            self._time.observe(plan.streams, plan.prompt_tokens, seconds)
        for job_id, count in plan.fed:
            if sequence := self._jobs.get(job_id):
                self._prompt_tokens += max(0, min(count, sequence.prompt_end - sequence.held))
                sequence.held += count
        return [
            (job_id, self._take(now, self._jobs[job_id], outcome))
            for job_id, outcome in zip(plan.rows, outcomes, strict=True)
            if job_id in self._jobs
        ]

    def failed(self, plan: Plan) -> list[int]:
        """Give up the jobs of a plan that failed; the next plan frees their slots."""
        self._in_flight = None
        slots = {slot for slot, _ in plan.begin}
        fed = {job_id for job_id, _ in plan.fed}
        lost = [
            sequence.id
            for sequence in self._running.values()
            if sequence.id in fed or sequence.slot in slots
        ]
        for job_id in lost:
            self._remove(job_id)
        return lost

    def stats(self) -> GeneratorStats:
        """The scheduler now."""
        held = sum(s.held + len(s.source) for s in self._running.values())
        return GeneratorStats(
            running=len(self._running),
            waiting=self._waiting_jobs(),
            kv_tokens=held,
            kv_capacity=self.facts.kv_tokens,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            preemptions=self._preemptions,
            steps=self._steps,
            step_seconds=self._step_seconds,
        )

    def _check_room(self, sequence: JobSequence) -> None:
        waiting = self._waiting_jobs()
        tokens = self._waiting_tokens + sequence.kv_tokens
        if not waiting:
            return
        if waiting >= self.limits.max_waiting or tokens > self.limits.max_waiting_tokens:
            raise OverloadedError(
                f"{waiting} jobs with {self._waiting_tokens} tokens wait for this model already; "
                "nothing was started, retry later",
                retry_after=1.0 if self._interval is None else self._interval,
            )

    def _waiting_jobs(self) -> int:
        return len(self._jobs) - len(self._running) - len(self._ended)

    def _wait(self, sequence: JobSequence) -> None:
        sequence.slot, sequence.held = None, 0
        self._waiting_tokens += sequence.kv_tokens
        heapq.heappush(self._waiting, (sequence.rank, sequence.id))
        if len(self._waiting) > 2 * len(self._jobs) + 64:
            self._waiting = [entry for entry in self._waiting if entry[1] in self._jobs]
            heapq.heapify(self._waiting)

    def _remove(self, job_id: int) -> None:
        sequence = self._jobs.pop(job_id)
        if self._running.pop(job_id, None):
            self._free(sequence)
        elif job_id in self._ended:
            self._ended.remove(job_id)
        else:
            self._waiting_tokens -= sequence.kv_tokens

    def _free(self, sequence: JobSequence) -> None:
        assert sequence.slot is not None
        self._freed.append(sequence.slot)
        self._slots.append(sequence.slot)

    def _preempt(self) -> None:
        """Take slots away until what runs fits; the newest of the lowest priority first."""
        needed = sum(sequence.kv_tokens for sequence in self._running.values())
        while needed > self.facts.kv_tokens:
            victim = max(self._running.values(), key=lambda s: (s.rank, s.id))
            needed -= victim.kv_tokens
            del self._running[victim.id]
            self._free(victim)
            self._wait(victim)
            self._preemptions += 1

    def _admit(self) -> list[tuple[int, Tokens]]:
        """Give slots to waiting jobs while the next step of all fits; the sources to begin."""
        begin: list[tuple[int, Tokens]] = []
        # one token more for each: a newcomer should not push out another at once, or be pushed out
        needed = sum(sequence.kv_tokens + 1 for sequence in self._running.values())
        while self._slots and (sequence := self._head()):
            fits = needed + sequence.kv_tokens + 1 <= self.facts.kv_tokens
            # a source is read in one piece: one at a time, lest the streams wait for many
            if self._running and (begin or not fits):
                break
            heapq.heappop(self._waiting)
            self._waiting_tokens -= sequence.kv_tokens
            sequence.slot, sequence.prompt_end = self._slots.pop(), sequence.length
            self._running[sequence.id] = sequence
            needed += sequence.kv_tokens + 1
            if self.facts.start_token is not None:
                begin.append((sequence.slot, sequence.source))
        return begin

    def _head(self) -> JobSequence | None:
        while self._waiting:
            if sequence := self._jobs.get(self._waiting[0][1]):
                return sequence
            heapq.heappop(self._waiting)
        return None

    def _step(self) -> Plan:
        """The tokens that go in: one of each stream, then chunks of prompts."""
        streams = [s for s in self._running.values() if s.pending == 1]
        parts = [(sequence, 1) for sequence in streams]
        if len(streams) < len(self._running):
            parts += self._chunks(len(streams))
        if not parts:
            return Plan()
        rows = [(s, end) for (s, count), end in _ends(parts) if count == s.pending]
        tokens, positions, slots = _ragged(parts)
        logit_rows = np.array([end - 1 for _, end in rows], np.int32)
        step = Step(tokens, positions, slots, logit_rows, *_adapters(parts))
        return Plan(
            step=step,
            rows=tuple(sequence.id for sequence, _ in rows),
            contexts=tuple(sequence.draw for sequence, _ in rows),
            fed=tuple((sequence.id, count) for sequence, count in parts),
            streams=len(streams),
            prompt_tokens=len(step.tokens) - len(streams),
        )

    def _chunks(self, streams: int) -> list[tuple[JobSequence, int]]:
        budget = self._chunk_tokens(streams)
        chunks = []
        reading = (sequence for sequence in self._running.values() if sequence.pending > 1)
        for sequence in sorted(reading, key=lambda s: (s.rank, s.id)):
            count = min(sequence.pending, budget)
            if count:
                chunks.append((sequence, count))
            budget -= count
        return chunks

    def _chunk_tokens(self, streams: int) -> int:
        """Most prompt tokens beside so many streams."""
        if not streams:
            return self.limits.max_chunk_tokens
        allowed = self._time.prompt_tokens(streams, self.limits.stall)
        if allowed is None:
            allowed = _FIRST_CHUNK
        whole = (streams + allowed) // _TILE * _TILE - streams
        return min(max(whole, self.limits.min_chunk_tokens), self.limits.max_chunk_tokens)

    def _take(self, now: float, sequence: JobSequence, outcome: TokenDraw | Scores) -> Delta:
        """One row's outcome as the delta of its job."""
        if not isinstance(outcome, TokenDraw):
            self._end(now, sequence)
            return Delta(scores=outcome)
        self._generated_tokens += 1
        if outcome.id in sequence.job.stop_tokens:
            self._end(now, sequence)
            return Delta(finish="stop")
        sequence.draw.generated.append(outcome.id)
        if len(sequence.draw.generated) < sequence.limit:
            return Delta((outcome,))
        self._end(now, sequence)
        return Delta((outcome,), "length")

    def _end(self, now: float, sequence: JobSequence) -> None:
        self._remove(sequence.id)
        if self._last_end is not None:
            seconds = now - self._last_end
            known = seconds if self._interval is None else self._interval
            self._interval = known + _GAIN * (seconds - known)
        self._last_end = now if self._jobs else None  # idle times tell nothing


def _ends(
    parts: Sequence[tuple[JobSequence, int]],
) -> zip[tuple[tuple[JobSequence, int], int]]:
    """Each part with the index after its last token."""
    return zip(parts, itertools.accumulate(count for _, count in parts), strict=True)


def _adapters(
    parts: Sequence[tuple[JobSequence, int]],
) -> tuple[tuple[LoadedAdapter, ...], Tokens]:
    """The adapters of a step, and int32 [N] which of them each token is under."""
    loaded: list[LoadedAdapter] = []
    numbers: dict[int, int] = {}  # by identity: one that was loaded again is another
    rows: list[int] = []
    for sequence, count in parts:
        adapter = sequence.job.loaded
        number = -1
        if adapter is not None:
            number = numbers.setdefault(id(adapter), len(loaded))
            if number == len(loaded):
                loaded.append(adapter)
        rows += [number] * count
    return tuple(loaded), np.array(rows if loaded else [], np.int32)


def _ragged(parts: Sequence[tuple[JobSequence, int]]) -> tuple[Tokens, Tokens, Tokens]:
    """Tokens, positions and slots of a step, int32 [N] each."""
    # lists cost less than many small arrays: this is done between two steps, while nothing computes
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    for sequence, count in parts:
        assert sequence.slot is not None
        tokens += sequence.unread(count)
        positions += range(sequence.held, sequence.held + count)
        slots += [sequence.slot] * count
    return np.array(tokens, np.int32), np.array(positions, np.int32), np.array(slots, np.int32)
