"""LoRA fine-tuning against TRL and transformers' Trainer: tokens a second, memory, and first of all
whether the same is computed.

A figure counts where our losses are those of the plain Trainer in float32: over the first step, and
over a curve of twenty. Each run is a process of its own.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import Figure, Goal, NotRun, Options, Row, Samples, interleave
from benchmarks.training_contestant import OURS, PLAIN, TRAINERS, TRL, TUNED, Measured, measure
from benchmarks.training_work import PRECISIONS, Work, tokens_of

logger = logging.getLogger(__name__)

THEME = "train"
SPEED_GOALS = {
    "bf16": {TRL: 2.5, TUNED: 2.0, PLAIN: 1.5},
    "fp32": {TRL: 1.6, TUNED: 1.4, PLAIN: 1.2},
}
MEMORY_GOAL = Goal(0.5, at_most=True, relative=True)
FIRST_LOSS = Goal(1e-5, at_most=True)
CURVE = Goal(1e-4, at_most=True)
CURVE_STEPS = 20
GATE = "losses differ from the plain Trainer's"

Found = Measured | NotRun


def run(options: Options, model: str, folder: Path) -> tuple[list[Row], list[str]]:
    """The gate, then every contestant in both precisions.

    Args:
        options: Of the theme.
        model: Of `prepare`.
        folder: Of `prepare`.

    Raises:
        BenchmarkError: a contestant failed.
    """
    rounds = options.rounds or (1 if options.quick else 5)
    gate, differences = check_losses(options, _work(options, model, folder, "fp32", gate=True))
    rows = list(gate)
    sound = all(row.met for row in gate)
    remarks = [differences]
    for precision in PRECISIONS[PRECISIONS.index(precision_of(options)) :]:
        work = _work(options, model, folder, precision)
        logger.info("%s, %d rounds of %d steps", precision, rounds, work.steps)
        runs = interleave(
            {name: partial(measure, options, name, work) for name in TRAINERS}, rounds
        )
        rows += build_rows(precision, runs, tokens_of(work.plan()), warmup_of(options), sound=sound)
        remarks.append(_losses(precision, runs))
    work = _work(options, model, folder, "fp32")
    return rows, [*remarks, _method(work, rounds, warmup_of(options))]


def check_losses(options: Options, work: Work) -> tuple[list[Row], str]:
    """Whether ours computes what the plain Trainer does.

    Returns:
        A row of the first step and one of the curve; and how far the losses go.
    """
    ours, plain = (measure(options, name, work) for name in (OURS, PLAIN))
    note = f"{work.steps} steps of {work.batch_size} rows, fp32, relative"
    name = "loss against the plain Trainer"
    if isinstance(ours, NotRun) or isinstance(plain, NotRun):
        absent = ours if isinstance(ours, NotRun) else plain
        assert isinstance(absent, NotRun)
        gates = {f"first step's {name}": FIRST_LOSS, f"{name}, the whole curve": CURVE}
        return [Row(THEME, each, "relative", absent, goal=gates[each]) for each in gates], ""
    apart = relative_differences(ours.losses, plain.losses)
    first, worst = Samples.of(apart[:1]), Samples.of([max(apart)])
    rows = [
        Row(THEME, f"first step's {name}", "relative", first, goal=FIRST_LOSS, note=note),
        Row(THEME, f"{name}, the whole curve", "relative", worst, goal=CURVE, note=note),
    ]
    return rows, (
        f"Losses of {note}: {ours.losses[0]:.6f} to {ours.losses[-1]:.6f} here, "
        f"{plain.losses[0]:.6f} to {plain.losses[-1]:.6f} by the plain Trainer."
    )


def relative_differences(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """How far the losses of each step lie apart, as shares of theirs."""
    pairs = zip(ours, theirs, strict=True)
    return [abs(one - other) / abs(other) for one, other in pairs]


def build_rows(
    precision: str,
    runs: Mapping[str, Sequence[Found]],
    tokens: Sequence[tuple[int, int]],
    warmup: int,
    *,
    sound: bool,
) -> list[Row]:
    """The rows of one precision.

    Args:
        precision: `bf16` or `fp32`.
        runs: Of each contestant, one a round.
        tokens: Of each step, and how many are supervised.
        warmup: First steps that are not counted.
        sound: Whether our losses are the plain Trainer's.
    """
    every = [count for count, _ in tokens]
    supervised = [count for _, count in tokens]
    rates = {name: _figure(found, every, warmup) for name, found in runs.items()}
    ours = rates[OURS] if sound else NotRun(GATE)
    rows = [
        Row(
            THEME,
            f"{precision}, real tokens, against {peer}",
            "tokens/s",
            ours,
            {peer: rates[peer]},
            Goal(bound, relative=True),
        )
        for peer, bound in SPEED_GOALS[precision].items()
    ]
    asked = {name: _figure(found, supervised, warmup) for name, found in runs.items()}
    mine = asked.pop(OURS)
    rows.append(Row(THEME, f"{precision}, supervised tokens", "tokens/s", mine, asked))
    memory = {name: _memory(found) for name, found in runs.items()}
    used = memory.pop(OURS)
    peers = {TRL: memory.pop(TRL), **memory}
    return [*rows, Row(THEME, f"{precision}, peak memory", "GiB", used, peers, MEMORY_GOAL)]


def precision_of(options: Options) -> str:
    """The lowest that is no emulation: bfloat16 needs more than AVX2."""
    return "fp32" if options.cap else "bf16"


def warmup_of(options: Options) -> int:
    """First steps that are not counted."""
    return 2 if options.quick else 3


def _work(
    options: Options, model: str, folder: Path, precision: str, *, gate: bool = False
) -> Work:
    if gate:
        return Work(
            model, str(folder), precision, CURVE_STEPS, 2 if options.quick else 8, options.threads
        )
    steps = warmup_of(options) + (2 if options.quick else 5)
    return Work(model, str(folder), precision, steps, 8, options.threads)


def _figure(found: Sequence[Found], counts: Sequence[int], warmup: int) -> Figure:
    whole = _whole(found)
    if isinstance(whole, NotRun):
        return whole
    return Samples.of(each.rate(counts, warmup) for each in whole)


def _memory(found: Sequence[Found]) -> Figure:
    whole = _whole(found)
    if isinstance(whole, NotRun):
        return whole
    return Samples.of(each.peak_bytes / 2**30 for each in whole)


def _whole(found: Sequence[Found]) -> list[Measured] | NotRun:
    absent = next((each for each in found if isinstance(each, NotRun)), None)
    return absent or [each for each in found if isinstance(each, Measured)]


def _losses(precision: str, runs: Mapping[str, Sequence[Found]]) -> str:
    """How far each contestant's losses lie from the plain Trainer's: the work is the same."""
    plain = _whole(runs[PLAIN])
    assert not isinstance(plain, NotRun)
    texts = []
    for name in runs:
        found = _whole(runs[name])
        if name != PLAIN and not isinstance(found, NotRun):
            apart = relative_differences(found[0].losses, plain[0].losses)
            texts.append(f"{name} {statistics.median(apart):.1e} ({max(apart):.1e})")
    return (
        f"{precision}: the losses of single steps differ from the plain Trainer's, in the median "
        f"(at most), by {', '.join(texts)}."
    )


def _method(work: Work, rounds: int, warmup: int) -> str:
    return (
        f"Each run is a process: {work.steps} steps of {work.batch_size} rows, the first {warmup} "
        f"not counted; {rounds} rounds in alternation, {work.threads} threads; LoRA r=16 on all "
        "linear layers, AdamW, clipped at 1, constant learning rate 2e-4; the same token ids, "
        "order, labels and first adapters. Ours is a worker's whole attempt, checkpoints included. "
        "Memory is VmHWM of the process and its children. bf16: ours and the plain Trainer hold "
        "the frozen weights in bf16, the Trainer under autocast; TRL holds them in fp32 unless "
        "tuned."
    )
