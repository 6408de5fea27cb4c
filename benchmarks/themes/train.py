"""Theme `train`: LoRA fine-tuning and DPO, their speed and memory against TRL and transformers'
Trainer, what a lost worker or machine costs, how long a step waits for checkpoints, what is
learned, and what embeddings gain that are trained on half of CLINC150's labels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    adapter_serving,
    encoder_adapter_serving,
    preference_learning,
    training_embedding,
    training_learning,
    training_preferences,
    training_recovery,
    training_saving,
    training_speed,
)
from benchmarks.harness import Options, Row, ThemeResult
from benchmarks.training_work import Work, prepare

Found = tuple[list[Row], list[str]]
PARTS: dict[str, Callable[[Options, str, Path], Found]] = {
    "speed": training_speed.run,
    "preferences": lambda options, _, folder: training_preferences.run(options, folder),
    "saving": training_saving.run,
    "recovery": lambda options, model, folder: training_recovery.run(
        options, Work(model, str(folder), "bf16", 1, 1, options.threads).data()
    ),
    "adapters": lambda options, model, folder: adapter_serving.run(
        options, Work(model, str(folder), "bf16", 2, 2, options.threads)
    ),
    "encoder-adapters": lambda options, *_: encoder_adapter_serving.run(options),
    "learning": lambda options, *_: training_learning.run(options),
    "preference-learning": lambda options, *_: preference_learning.run(options),
    "embedding": lambda options, *_: training_embedding.run(options),
}
"""Of the theme; given the options and what `prepare` has made."""


def run(options: Options) -> ThemeResult:
    """Measure everything, or the parts that are asked for.

    Raises:
        BenchmarkError: the data are missing, a contestant failed, or a run did not come back.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-train-") as made:
        folder = Path(made)
        model = prepare(options.data, folder)
        found = [
            part(options, model, folder)
            for name, part in PARTS.items()
            if name in (options.parts or PARTS)
        ]
    return ThemeResult(
        [row for rows, _ in found for row in rows],
        [remark for _, remarks in found for remark in remarks],
    )
