"""What preferences teach: how often the better answer is the likelier one, before and after DPO, on
prompts that were not trained on.

Of CLINC150 each text has two labels: the right one is chosen, and rejected is the one that
MiniLM holds for the nearest among the wrong ones. Of GSM8K each question has a right and a wrong
solution of a model.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.generation_work import MODEL
from benchmarks.harness import BenchmarkError, Goal, Options, Row, Samples
from benchmarks.intent_accuracy import Embed, load_split
from benchmarks.machine import ROOT
from benchmarks.peers.ours import build
from benchmarks.training_work import PAIRS
from ironcliw.settings import Settings, load_settings
from train.config import make_config
from train.data.options import DataOptions
from train.data.read import read_data
from train.environment import run_environment
from train.job import Job
from train.model.load import model_folder
from train.outcome import read_outcome
from train.tokenizer import TrainingTokenizer
from train.worker import work

THEME = "train"
ACCURACY = Goal(0.9)
INTENTS, SOLUTIONS = "CLINC150", "GSM8K"
_HELD_OUT = {False: 3000, True: 600}
_TRAINED = {INTENTS: {False: 6000, True: 1600}, SOLUTIONS: {False: 600, True: 80}}
"""Pairs, in full and with `--quick`."""
_SETTINGS: dict[str, Any] = {
    "schedule": "linear",
    "num_epochs": 1,
    "lora_rank": 16,
    "evaluation": {"every_epochs": 0, "max_rows": 3000, "gate": "preference_accuracy"},
}
_OF_KIND: dict[str, dict[str, Any]] = {
    # answers of a few tokens: the margin that is to be reached is a few nats
    INTENTS: {
        "preference": {"loss": "sigmoid", "beta": 0.3},
        "learning_rate": 1e-3,
        "warmup_share": 0.1,
        "batch_size": 16,
        "micro_batch_tokens": 1024,
    },
    SOLUTIONS: {
        "preference": {"loss": "sigmoid", "beta": 0.1},
        "learning_rate": 1e-4,
        "batch_size": 8,
        "micro_batch_tokens": 4096,
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class Learned:
    """What a run reached.

    Attributes:
        before: Share of the held-out pairs whose chosen answer is the likelier one.
        after: The same after training.
        seconds: Of the whole run.
        pairs: That were trained on.
        held_out: That were not.
    """

    before: float
    after: float
    seconds: float
    pairs: int
    held_out: int


def run(options: Options) -> tuple[list[Row], list[str]]:
    """Train on each kind of pairs once.

    Raises:
        BenchmarkError: the data is missing, or a process failed.
    """
    found = {name: _measure(options, name) for name in (INTENTS, SOLUTIONS)}
    return build_rows(found), [_remark(found)]


def build_rows(found: dict[str, Learned]) -> list[Row]:
    """Before and after of each kind of pairs; the goal is that of the intents."""
    rows = []
    for name, learned in found.items():
        what = f"held-out preference accuracy of SmolLM2-135M on pairs of {name}"
        goal = ACCURACY if name == INTENTS else None
        rows.append(Row(THEME, f"{what}, before", "share", Samples.of([learned.before])))
        rows.append(
            Row(THEME, f"{what}, after DPO", "share", Samples.of([learned.after]), goal=goal)
        )
    return rows


def nearest_wrong(texts: np.ndarray, labels: np.ndarray, right: Sequence[int]) -> list[int]:
    """For each text the label that is nearest to it, but for the right one.

    Args:
        texts: float [N, D], of length 1.
        labels: float [L, D], of length 1.
        right: Places of the right labels, N of them.
    """
    scores = texts @ labels.T
    scores[np.arange(len(right)), list(right)] = -np.inf
    return [int(place) for place in scores.argmax(1)]


def write_intents(data: Path, split: str, count: int, to: Path, embed: Embed) -> None:
    """Write pairs of labels of CLINC150.

    Args:
        data: Folder of the benchmark texts.
        split: `train` or `val`.
        count: Most pairs, chosen at random.
        to: File to write.
        embed: Texts to vectors of length 1.
    """
    found = load_split(data, split)
    chosen = np.random.default_rng(0).permutation(len(found.texts))[:count]
    texts, names = [found.texts[at] for at in chosen], sorted(set(found.labels))
    right = [names.index(found.labels[at]) for at in chosen]
    spoken = [name.replace("_", " ") for name in names]
    vectors, labels = (np.asarray(embed(each)) for each in (texts, spoken))
    wrong = nearest_wrong(vectors, labels, right)
    rows = (
        {"prompt": f"intent of: {text}\n", "chosen": f" {spoken[a]}", "rejected": f" {spoken[b]}"}
        for text, a, b in zip(texts, right, wrong, strict=True)
    )
    to.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """The process's entry: `KIND DATA EMBEDDER THREADS LENGTH`."""
    kind, data, embedder, threads, length = arguments
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory(prefix="benchmark-preferences-") as folder:
        embed = build(Path(embedder), int(threads))
        learned = _learn(kind, Path(data), Path(folder), embed, int(threads), length == "quick")
    sys.stdout.write(json.dumps(dataclasses.asdict(learned)) + "\n")


def _measure(options: Options, kind: str) -> Learned:
    data = options.data.resolve()
    for name in (PAIRS, "intent/clinc150_train.jsonl", "intent/clinc150_val.jsonl"):
        if not (data / name).exists():
            raise BenchmarkError(f"{data / name} is absent; `ironcliw bench fetch-data`")
    length = "quick" if options.quick else "full"
    given = (kind, str(data), str(options.model), str(options.threads), length)
    environment = options.child_environment()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.preference_learning", *given],
        cwd=ROOT,
        env=environment | run_environment(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"pairs of {kind} failed:\n{done.stderr.strip()[-1500:]}")
    return Learned(**json.loads(done.stdout.splitlines()[-1]))


def _learn(kind: str, data: Path, folder: Path, embed: Embed, threads: int, quick: bool) -> Learned:
    settings = load_settings()
    trained = _TRAINED[kind][quick]
    if kind == INTENTS:
        options = _intents(data, folder, embed, trained, _HELD_OUT[quick])
    else:
        options = DataOptions(train=(str(data / PAIRS),), eval_share=0.2, plain_text=True)
    tokenizer = TrainingTokenizer.load(MODEL, settings)
    rows = read_data(options, tokenizer)
    assert rows.eval is not None
    model = model_folder(MODEL, settings)
    most = -(-min(trained, len(rows.train)) // _OF_KIND[kind]["batch_size"])
    given = {"model_name": str(model), "max_steps": most, **_SETTINGS, **_OF_KIND[kind]}
    config = make_config(given, "the benchmark's run")
    uri = str(folder / "run")
    begun = time.monotonic()
    work(Job(config, Settings(state_dir=folder / "state"), uri, rows.train, rows.eval, threads))
    seconds = time.monotonic() - begun
    outcome = read_outcome(uri)
    assert outcome is not None
    before, after = (outcome[key]["preference_accuracy"] for key in ("before", "evaluation"))
    pairs = min(most * config.batch_size, len(rows.train))
    return Learned(before, after, seconds, pairs, outcome["evaluation"]["eval_rows"])


def _intents(data: Path, folder: Path, embed: Embed, trained: int, held_out: int) -> DataOptions:
    files = {"train": (folder / "train.jsonl", trained), "val": (folder / "val.jsonl", held_out)}
    for split, (file, count) in files.items():
        write_intents(data, split, count, file, embed)
    train, val = (str(file) for file, _ in files.values())
    return DataOptions(train=(train,), eval=(val,), plain_text=True)


def _remark(found: dict[str, Learned]) -> str:
    texts = [
        f"{name}: {each.pairs} pairs once in {each.seconds:.0f} s, measures included, "
        f"{each.held_out} held out, beta {_OF_KIND[name]['preference']['beta']}, learning rate "
        f"{_OF_KIND[name]['learning_rate']:g}, batches of {_OF_KIND[name]['batch_size']}"
        for name, each in found.items()
    ]
    return (
        f"Preferences: {'; '.join(texts)}. LoRA r=16, sigmoid. An answer is preferred "
        "whose tokens together are the likelier ones, so a longer one is at a disadvantage."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
