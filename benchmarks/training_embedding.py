"""An embedding model by LoRA on half of CLINC150's labels: what it does for the other half.

A text is classified by the nearest of the labels' names, each embedded as it is written, without
its underscores. No text and no name of the labels that are measured is trained on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import BenchmarkError, Goal, Options, Row, Samples
from benchmarks.intent_accuracy import Split, load_split
from benchmarks.machine import ROOT
from ironcliw.settings import Settings, load_settings
from train.config import make_config
from train.data.options import DataOptions
from train.data.read import read_data
from train.embedding.tokenizer import EncoderTokenizer
from train.job import Job
from train.outcome import read_outcome
from train.worker import work

THEME = "train"
MODEL = "all-MiniLM-L6-v2"
GAINED = Goal(3.0)
_SEED = 0
_QUICK_TEXTS = 2000
_SETTINGS: dict[str, Any] = {
    "embedding": {"label_name_share": 0.5},
    "batch_size": 64,
    "micro_batch_tokens": 2048,
    "learning_rate": 5e-4,
    "schedule": "linear",
    "warmup_share": 0.1,
    "num_epochs": 1,
    "lora_rank": 16,
    "precision": "fp32",
}


@dataclass(frozen=True, slots=True)
class Found:
    """Of one run.

    Attributes:
        before: Share of the texts whose label's name is the nearest, before training.
        after: The same after it.
        prototypes_before: Share of those that are nearest to the mean of their label's others.
        prototypes_after: The same after it.
        seconds: Of the whole run, both measurements included.
        texts: That were trained on.
    """

    before: float
    after: float
    prototypes_before: float
    prototypes_after: float
    seconds: float
    texts: int


def run(options: Options) -> tuple[list[Row], list[str]]:
    """Train once, and measure before and after.

    Raises:
        BenchmarkError: the data is missing, or the process failed.
    """
    load_split(options.data, "train")
    texts = _QUICK_TEXTS if options.quick else 0
    given = (str(options.data.resolve()), str(options.threads), str(texts))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_embedding", *given],
        cwd=ROOT,
        env=options.child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"training of embeddings failed:\n{done.stderr.strip()[-1500:]}")
    found = Found(**json.loads(done.stdout.splitlines()[-1]))
    return build_rows(found), [_remark(found)]


def build_rows(found: Found) -> list[Row]:
    """The rows of a run."""

    def row(name: str, unit: str, value: float, goal: Goal | None = None) -> Row:
        return Row(THEME, name, unit, Samples.of([value]), goal=goal)

    what = "75 unseen labels of CLINC150, MiniLM"
    return [
        row(f"{what}: nearest name, before", "share", found.before),
        row(f"{what}: nearest name, after LoRA on 75 others", "share", found.after),
        row(f"{what}: gained", "points", 100 * (found.after - found.before), GAINED),
        row(f"{what}: nearest mean of texts, before", "share", found.prototypes_before),
        row(f"{what}: nearest mean of texts, after", "share", found.prototypes_after),
        row("training of embeddings, measuring included", "s", found.seconds),
    ]


def halves(labels: Iterable[str], seed: int = _SEED) -> tuple[list[str], list[str]]:
    """Labels to train on and labels to measure on, by chance."""
    names = sorted(set(labels))
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    half = len(names) // 2
    return [names[at] for at in order[:half]], [names[at] for at in order[half:]]


def write_texts(split: Split, labels: Sequence[str], to: Path, *, only: int = 0) -> None:
    """Rows of the texts that have one of the labels.

    Args:
        split: Of the data.
        labels: Whose texts are written.
        to: Where to.
        only: How many at most, chosen by chance; 0: all.
    """
    chosen = set(labels)
    given = zip(split.texts, split.labels, strict=True)
    rows = [{"text": text, "label": label} for text, label in given if label in chosen]
    if only:
        places = np.random.default_rng(_SEED).permutation(len(rows))[:only]
        rows = [rows[at] for at in sorted(places.tolist())]
    to.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def train(folder: Path, data: Path, threads: int, texts: int, **changes: Any) -> Found:
    """One run.

    Args:
        folder: Empty; `run` in it is the run's afterwards.
        data: The benchmarks' data folder.
        threads: Of the computation.
        texts: Trained on at most; 0: all.
        changes: Of the configuration.

    Raises:
        BenchmarkError: the data is missing.
        TrainingError: the run failed.
    """
    training, validation = load_split(data, "train"), load_split(data, "val")
    seen, unseen = halves(training.labels)
    write_texts(training, seen, folder / "train.jsonl", only=texts)
    write_texts(validation, unseen, folder / "eval.jsonl")
    settings = load_settings()
    tokenizer = EncoderTokenizer.load_encoder(MODEL, settings)
    options = DataOptions(
        train=(str(folder / "train.jsonl"),), eval=(str(folder / "eval.jsonl"),), max_length=128
    )
    rows = read_data(options, tokenizer)
    assert rows.eval is not None
    evaluation = {"max_rows": len(rows.eval), "every_epochs": 0}
    given = {"model_name": MODEL, "evaluation": evaluation, **_SETTINGS, **changes}
    config = make_config(given, "the benchmark's run")
    made = Settings(state_dir=folder / "state", models=settings.models)
    job = Job(config, made, str(folder / "run"), rows.train, rows.eval, threads, tokenizer)
    begun = time.monotonic()
    work(job)
    seconds = time.monotonic() - begun
    outcome = read_outcome(job.uri)
    assert outcome is not None
    before, after = outcome["before"], outcome["evaluation"]
    return Found(
        before["retrieval_accuracy"],
        after["retrieval_accuracy"],
        before["prototype_accuracy"],
        after["prototype_accuracy"],
        seconds,
        len(rows.train) * config.num_epochs,
    )


def main(arguments: Sequence[str]) -> None:
    """The process's entry: `DATA THREADS TEXTS`."""
    data, threads, texts = arguments
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory(prefix="benchmark-embed-") as folder:
        found = train(Path(folder), Path(data), int(threads), int(texts))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


def _remark(found: Found) -> str:
    return (
        f"Embeddings: {found.texts} texts of 75 labels, drawn by chance, in batches of "
        f"{_SETTINGS['batch_size']}; LoRA r={_SETTINGS['lora_rank']}; positives are the label's "
        "name in half of the cases, else another text of the label. Measured on the validation "
        "texts of the other 75 labels, whose names and texts were not trained on."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
