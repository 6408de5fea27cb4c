"""Theme `train`: LoRA fine-tuning, its speed and memory against TRL and transformers' Trainer, what
a lost worker or machine costs it, how long a step waits for checkpoints, and what it learns."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import training_learning, training_recovery, training_saving, training_speed
from benchmarks.harness import Options, ThemeResult
from benchmarks.training_work import Work, prepare


def run(options: Options) -> ThemeResult:
    """Measure everything.

    Raises:
        BenchmarkError: the data are missing, a contestant failed, or a run did not come back.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-train-") as made:
        folder = Path(made)
        model = prepare(options.data, folder)
        data = Work(model, str(folder), "bf16", 1, 1, options.threads).data()
        found = [
            training_speed.run(options, model, folder),
            training_saving.run(options, model, folder),
            training_recovery.run(options, data),
            training_learning.run(options),
        ]
    return ThemeResult(
        [row for rows, _ in found for row in rows],
        [remark for _, remarks in found for remark in remarks],
    )
