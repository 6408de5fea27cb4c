"""A small decision model by LoRA, within a limit of time: CLINC150, before and after.

A row is `intent of: TEXT` with the label's name as its completion. An answer is decoded greedily
among the 150 labels: of the tokens that any label goes on with, the likeliest. So the model before
training is not blamed for a form that it cannot know.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.generation_work import MODEL
from benchmarks.harness import BenchmarkError, Goal, NotRun, Options, Row, Samples
from benchmarks.machine import ROOT
from benchmarks.training_decisions import LabelTrie, accuracy, split_row
from ironcliw.settings import Settings, load_settings
from train.assembly import total_steps
from train.config import make_config
from train.data.options import DataOptions
from train.data.read import read_data
from train.data.tokenized import TokenizedData
from train.job import Job
from train.model.load import model_folder
from train.outcome import read_outcome
from train.run_files import ADAPTER
from train.tokenizer import TrainingTokenizer
from train.worker import work

THEME = "train"
LIMIT_SECONDS = 15 * 60.0
ACCURACY = Goal(0.85)
_QUICK_TEXTS = 600
_TRAINING, _VALIDATION = "intent/clinc150_train.jsonl", "intent/clinc150_val.jsonl"
_SETTINGS: dict[str, Any] = {
    "batch_size": 16,
    "micro_batch_tokens": 1024,
    "learning_rate": 1e-3,
    "schedule": "linear",
    "num_epochs": 1,
    "lora_rank": 16,
}
_PROBE_STEPS = 6
_RESERVE = 0.85
"""Share of the limit that is planned for: a machine may be slower later on."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a run reached.

    Attributes:
        before: Share of the validation texts whose intent was found before training.
        after: The same after it.
        seconds: Of the training, loading and measuring its speed included.
        steps: Optimizer steps.
        rows: That were read in training.
    """

    before: float
    after: float
    seconds: float
    steps: int
    rows: int


def run(options: Options, limit: float = LIMIT_SECONDS) -> tuple[list[Row], list[str]]:
    """Train once, and measure before and after.

    Raises:
        BenchmarkError: the data is missing, or the process failed.
    """
    for name in (_TRAINING, _VALIDATION):
        if not (options.data / name).exists():
            raise BenchmarkError(f"{options.data / name} is absent; `ironcliw bench fetch-data`")
    texts = _QUICK_TEXTS if options.quick else 0
    given = (str(options.data.resolve()), str(limit), str(options.threads), str(texts))
    command = [sys.executable, "-m", "benchmarks.training_learning", *given]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=options.child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"learning failed:\n{done.stderr.strip()[-1500:]}")
    learned = Learned(**json.loads(done.stdout.splitlines()[-1]))
    return build_rows(learned, limit), [_remark(learned, texts)]


def build_rows(learned: Learned, limit: float) -> list[Row]:
    """The rows of a run; one that took longer than it may has no accuracy."""
    name = "CLINC150 validation accuracy of SmolLM2-135M"
    after = (
        Samples.of([learned.after])
        if learned.seconds <= limit
        else NotRun(f"training took {learned.seconds:.0f} s, and {limit:.0f} s are allowed")
    )
    return [
        Row(THEME, f"{name} before", "share", Samples.of([learned.before])),
        Row(THEME, f"{name} after LoRA", "share", after, goal=ACCURACY),
        Row(
            THEME,
            "that training, loading included",
            "s",
            Samples.of([learned.seconds]),
            goal=Goal(limit, at_most=True),
        ),
    ]


def write_rows(source: Path, to: Path, *, only: int = 0, seed: int = 0) -> None:
    """Texts with their labels as prompts with their completions.

    Args:
        source: Rows of `text` and `label`.
        to: Where to.
        only: How many of them, chosen at random; 0: all.
        seed: Of that choice.
    """
    lines = source.read_text(encoding="utf-8").splitlines()
    if only:
        chosen = np.random.default_rng(seed).permutation(len(lines))[:only]
        lines = [lines[at] for at in sorted(chosen.tolist())]
    rows = []
    for line in lines:
        given = json.loads(line)
        label = " " + given["label"].replace("_", " ")
        rows.append({"prompt": f"intent of: {given['text']}\n", "completion": label})
    to.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def steps_in(seconds: float, per_step: float, most: int) -> int:
    """How many steps end in time.

    Raises:
        BenchmarkError: not one does.
    """
    found = min(most, int(seconds / per_step))
    if found < 1:
        raise BenchmarkError(f"no step of {per_step:.1f} s ends within {seconds:.0f} s")
    return found


def main(arguments: Sequence[str]) -> None:
    """The process's entry: `DATA LIMIT THREADS TEXTS`."""
    data, limit, threads, texts = arguments
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory(prefix="benchmark-learn-") as folder:
        learned = _learn(Path(data), Path(folder), float(limit), int(threads), int(texts))
    sys.stdout.write(
        json.dumps({name: getattr(learned, name) for name in Learned.__dataclass_fields__}) + "\n"
    )


def _learn(data: Path, folder: Path, limit: float, threads: int, texts: int) -> Learned:
    settings = load_settings()
    tokenizer = TrainingTokenizer.load(MODEL, settings)
    rows = {}
    for name, only in ((_TRAINING, 0), (_VALIDATION, texts)):
        file = folder / Path(name).name
        write_rows(data / name, file, only=only)
        rows[name] = read_data(DataOptions(train=(str(file),), plain_text=True), tokenizer).train
    training, validation = rows[_TRAINING], rows[_VALIDATION]
    trie = LabelTrie(split_row(training, row)[1] for row in range(len(training)))
    model = model_folder(MODEL, settings)
    before = accuracy(_load(model), validation, trie)
    begun = time.monotonic()
    probe = _train(folder / "probe", model, training, threads, _PROBE_STEPS)
    per_step = float(np.median(probe[1:]))
    config = make_config({"model_name": str(model), **_SETTINGS}, "the benchmark's run")
    most = total_steps(config, -(-len(training) // config.batch_size))
    steps = steps_in(_RESERVE * limit - (time.monotonic() - begun), per_step, most)
    _train(folder / "run", model, training, threads, steps)
    seconds = time.monotonic() - begun
    after = accuracy(_load(model, folder / "run" / ADAPTER), validation, trie)
    return Learned(before, after, seconds, steps, steps * config.batch_size)


def _train(folder: Path, model: Path, data: TokenizedData, threads: int, steps: int) -> list[float]:
    """All of a worker's attempt; returns the seconds of its steps."""
    given = {"model_name": str(model), "max_steps": steps, **_SETTINGS}
    config = make_config(given, "the benchmark's run")
    settings = Settings(state_dir=folder / "state")
    seconds: list[float] = []
    job = Job(config, settings, str(folder), data, None, threads)
    work(job, report=lambda step: seconds.append(step.seconds))
    read_outcome(str(folder))
    return seconds


def _load(folder: Path, adapter: Path | None = None) -> Any:
    import peft
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    model = loader.from_pretrained(folder, dtype=torch.bfloat16)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return model.eval()


def _remark(learned: Learned, texts: int) -> str:
    chosen = f"{texts} of them, chosen at random" if texts else "all"
    return (
        f"Learning: {learned.steps} steps of {_SETTINGS['batch_size']} rows, {learned.rows} of the "
        f"15,000 training rows, once; linear schedule from {_SETTINGS['learning_rate']:g}; LoRA "
        f"r=16. As many steps as end in time by the first six of a run before. Of the 3,000 "
        f"validation texts, {chosen}, decoded greedily among the labels."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
