"""How much of its time a step waits for checkpoints, where every single step is saved.

What passes between the ends of two steps and is not the second step's own is the wait: the copy of
weights and optimizer, and the save before it where that is not durable yet.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Goal, Options, Row, Samples
from benchmarks.training_contestant import Measured, measure
from benchmarks.training_speed import precision_of
from benchmarks.training_work import Work

THEME = "train"
SHARE = Goal(0.05, at_most=True)
TRAINER = "benchmarks.peers.our_training:train_saving_each_step"
_STEPS, _QUICK_STEPS = 12, 6


def run(options: Options, model: str, folder: Path) -> tuple[list[Row], list[str]]:
    """One run of its own.

    Args:
        options: Of the theme.
        model: Of `prepare`.
        folder: Of `prepare`.

    Raises:
        BenchmarkError: it failed.
    """
    steps = _QUICK_STEPS if options.quick else _STEPS
    work = Work(model, str(folder), precision_of(options), steps, 8, options.threads)
    found = measure(options, "ironcliw, saving", work, TRAINER)
    assert isinstance(found, Measured)
    return [build_row(found, work)], []


def build_row(found: Measured, work: Work) -> Row:
    """The share of all steps' time but the first's."""
    share = Samples.of([waited(found)])
    note = f"{work.precision}, {work.steps} steps, each saved in the background"
    name = "share of its time that a step waits for saves"
    return Row(THEME, name, "share", share, goal=SHARE, note=note)


def waited(found: Measured) -> float:
    """The time that is no step's own, as a share of all of it."""
    own = found.own_seconds[1:]
    assert len(own) == len(found.seconds)
    return max(0.0, sum(found.seconds) - sum(own)) / sum(found.seconds)
