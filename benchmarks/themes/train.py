"""Theme `train`: LoRA fine-tuning, its speed and memory against TRL and transformers' Trainer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import training_speed
from benchmarks.harness import Options, ThemeResult
from benchmarks.training_work import prepare


def run(options: Options) -> ThemeResult:
    """Measure everything.

    Raises:
        BenchmarkError: the data is missing, or a contestant failed.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-train-") as made:
        folder = Path(made)
        model = prepare(options.data, folder)
        rows, remarks = training_speed.run(options, model, folder)
    return ThemeResult(rows, remarks)
