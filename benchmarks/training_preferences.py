"""DPO against TRL's trainer: pairs a second, memory, and first of all whether the same is computed.

A figure counts where our losses and rewards are TRL's in float32 over twenty steps, by the losses
`sigmoid` and `ipo`. Each run is a process of its own.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import Figure, Goal, NotRun, Options, Row, Samples, interleave
from benchmarks.training_contestant import (
    OURS,
    PRECOMPUTED,
    PREFERENCE_TRAINERS,
    TRL,
    TRL_PRECOMPUTED,
    Measured,
    measure,
)
from benchmarks.training_speed import CURVE_STEPS, precision_of, relative_differences, warmup_of
from benchmarks.training_work import PRECISIONS, Work, prepare_pairs

logger = logging.getLogger(__name__)

THEME = "train"
SPEED_GOALS = {OURS: (TRL, 2.5), PRECOMPUTED: (TRL_PRECOMPUTED, 2.0)}
MEMORY_GOAL = Goal(0.5, at_most=True, relative=True)
CURVE = Goal(1e-4, at_most=True)
GATED_LOSSES = ("sigmoid", "ipo")
GATE = "losses or rewards differ from TRL's"
BATCH = 8

Found = Measured | NotRun


def run(options: Options, folder: Path) -> tuple[list[Row], list[str]]:
    """The gate, then every contestant in both precisions.

    Args:
        options: Of the theme.
        folder: For the pairs; it is there.

    Raises:
        BenchmarkError: the data are missing, or a contestant failed.
    """
    rounds = options.rounds or (1 if options.quick else 3)
    rows: list[Row] = []
    batch = 2 if options.quick else BATCH
    gate = folder / "pairs-of-the-curve"
    model = prepare_pairs(options.data, gate, CURVE_STEPS * batch)
    for loss in GATED_LOSSES:
        work = Work(model, str(gate), "fp32", CURVE_STEPS, batch, options.threads, loss)
        logger.info("%s, %d steps of ours and of TRL", loss, work.steps)
        found = [measure_pairs(options, name, work) for name in (OURS, TRL)]
        rows += curve_rows(loss, *found, note=f"{work.steps} steps of {batch} pairs, fp32")
    sound = all(row.met for row in rows)
    steps = warmup_of(options) + (2 if options.quick else 5)
    timed = folder / "pairs-of-the-rates"
    prepare_pairs(options.data, timed, steps * BATCH)
    for precision in PRECISIONS[PRECISIONS.index(precision_of(options)) :]:
        work = Work(model, str(timed), precision, steps, BATCH, options.threads, "sigmoid")
        logger.info("%s, %d rounds of %d steps", precision, rounds, steps)
        runs = interleave(
            {name: partial(measure_pairs, options, name, work) for name in PREFERENCE_TRAINERS},
            rounds,
        )
        pairs = [len(step.rows) for step in work.plan()]
        rows += build_rows(precision, runs, pairs, warmup_of(options), sound=sound)
    return rows, [_method(steps, rounds, warmup_of(options), options.threads)]


def measure_pairs(options: Options, contestant: str, work: Work) -> Found:
    """A contestant; its name says where its reference comes from.

    Raises:
        BenchmarkError: it failed.
    """
    kept = contestant in (PRECOMPUTED, TRL_PRECOMPUTED)
    asked = dataclasses.replace(work, reference="precomputed" if kept else "model")
    return measure(options, contestant, asked, PREFERENCE_TRAINERS[contestant])


def curve_rows(loss: str, ours: Found, theirs: Found, *, note: str) -> list[Row]:
    """How far the losses (relative) and the margins of the rewards (absolute) lie apart."""
    names = (f"{loss}, loss against TRL", f"{loss}, margin of the rewards against TRL")
    units = ("relative", "absolute")
    if isinstance(ours, NotRun) or isinstance(theirs, NotRun):
        absent = ours if isinstance(ours, NotRun) else theirs
        return [
            Row(THEME, name, unit, absent, goal=CURVE)
            for name, unit in zip(names, units, strict=True)
        ]
    margins = zip(ours.margins, theirs.margins, strict=True)
    apart = (
        max(relative_differences(ours.losses, theirs.losses)),
        max(abs(one - other) for one, other in margins),
    )
    last = f"at the end {ours.losses[-1]:.4f} here, {theirs.losses[-1]:.4f} there"
    return [
        Row(THEME, name, unit, Samples.of([worst]), goal=CURVE, note=f"{note}; {last}")
        for name, unit, worst in zip(names, units, apart, strict=True)
    ]


def build_rows(
    precision: str,
    runs: Mapping[str, Sequence[Found]],
    pairs: Sequence[int],
    warmup: int,
    *,
    sound: bool,
) -> list[Row]:
    """The rows of one precision.

    Args:
        precision: `bf16` or `fp32`.
        runs: Of each contestant, one a round.
        pairs: Of each step.
        warmup: First steps that are not counted.
        sound: Whether our losses and rewards are TRL's.
    """
    rows = []
    for name, (peer, bound) in SPEED_GOALS.items():
        ours = _figure(runs[name], lambda found: found.rate(pairs, warmup))
        theirs = _figure(runs[peer], lambda found: found.rate(pairs, warmup))
        rows.append(
            Row(
                THEME,
                f"{precision}, DPO, {_reference(name)}",
                "pairs/s",
                ours if sound else NotRun(GATE),
                {peer: theirs},
                Goal(bound, relative=True),
            )
        )
    for name, (peer, _) in SPEED_GOALS.items():
        ours, theirs = (
            _figure(runs[each], lambda found: found.peak_bytes / 2**30) for each in (name, peer)
        )
        what = f"{precision}, DPO, {_reference(name)}, peak memory"
        rows.append(Row(THEME, what, "GiB", ours, {peer: theirs}, MEMORY_GOAL))
    return rows


def _reference(name: str) -> str:
    return "reference precomputed" if name == PRECOMPUTED else "reference in each step"


def _figure(found: Sequence[Found], of: Callable[[Measured], float]) -> Figure:
    absent = next((each for each in found if isinstance(each, NotRun)), None)
    return absent or Samples.of(of(each) for each in found if isinstance(each, Measured))


def _method(steps: int, rounds: int, warmup: int, threads: int) -> str:
    return (
        f"DPO: each run is a process, {steps} steps of {BATCH} pairs of GSM8K solutions, the first "
        f"{warmup} not counted; {rounds} rounds in alternation, {threads} threads; beta 0.1, LoRA "
        "r=16 on all linear layers, AdamW, constant learning rate 2e-4; the same token ids, order "
        "and first adapters. Where the reference is precomputed, that pass lies before the first "
        "step and is not counted, neither ours nor TRL's. TRL as it comes: gradient checkpointing, "
        "weights in float32, of which bf16 changes the computation only; ours holds them in bf16."
    )
