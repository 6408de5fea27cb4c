"""What the contestants of theme `train` compute: one model, the same rows, adapters and numbers.

Rows and initial adapters are made once and lie in a folder that every contestant's process reads,
so that token ids, labels, order and first weights are the same bits for all.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.generation_work import MODEL
from benchmarks.harness import BenchmarkError
from ironcliw.file_digests import weights_digest
from ironcliw.settings import load_settings
from train.config import TrainingConfig, make_config
from train.data.options import DataOptions
from train.data.plan import Step, StepPlan
from train.data.read import read_data
from train.data.tokenized import TokenizedData
from train.model.adapters import add_adapters, trainable
from train.model.load import load_base, model_folder
from train.tokenizer import TrainingTokenizer

ROWS = "sft/gsm8k_train_2000.jsonl"
PAIRS = "preference/gsm8k_solutions.jsonl"
PRECISIONS = ("bf16", "fp32")
RANK, ALPHA, LEARNING_RATE, CLIP_NORM, SEED, BETA = 16, 32, 2e-4, 1.0, 0, 0.1
_DATA, _ADAPTER, _CPU = "rows", "adapter.safetensors", torch.device("cpu")


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """Some optimizer steps of LoRA fine-tuning.

    Attributes:
        model: Folder of the model, in Hugging Face's format.
        folder: With the tokenised rows and the initial adapters.
        precision: `bf16` or `fp32`.
        steps: Optimizer steps.
        batch_size: Rows of each.
        threads: Compute threads.
        preference: Loss of pairs, such as `sigmoid`; empty: the rows are imitated.
        reference: Of pairs: `model` or `precomputed`.
    """

    model: str
    folder: str
    precision: str
    steps: int
    batch_size: int
    threads: int
    preference: str = ""
    reference: str = "model"

    @classmethod
    def of(cls, text: str) -> Work:
        """The work in what a contestant was given."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """The work as a contestant is given it."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def adapter(self) -> Path:
        """The initial adapters, by the names of peft's parameters."""
        return Path(self.folder) / _ADAPTER

    def data(self) -> TokenizedData:
        """The tokenised rows."""
        found: TokenizedData = pickle.loads((Path(self.folder) / _DATA).read_bytes())
        return found

    def config(self, **changes: Any) -> TrainingConfig:
        """The work as our trainer is told it."""
        if self.preference:
            asked = {"loss": self.preference, "beta": BETA, "reference": self.reference}
            changes = {"preference": asked, **changes}
        return _config(
            self.model,
            precision=self.precision,
            batch_size=self.batch_size,
            max_steps=self.steps,
            **changes,
        )

    def plan(self) -> list[Step]:
        """What each step reads: the order that every contestant keeps."""
        plan = StepPlan(self.data(), seed=SEED, batch_size=self.batch_size)
        return [plan.step(number) for number in range(self.steps)]

    def rows(self) -> list[dict[str, list[int]]]:
        """The rows of all steps in order, as transformers takes them: `input_ids`, `labels`."""
        data = self.data()
        found = []
        for step in self.plan():
            for index in step.rows:
                row = data.row(index)
                pairs = zip(row.tokens.tolist(), row.supervised.tolist(), strict=True)
                ids = row.tokens.tolist()
                found.append({"input_ids": ids, "labels": [t if s else -100 for t, s in pairs]})
        return found

    def pairs(self) -> list[dict[str, list[int]]]:
        """The pairs of all steps in order, as TRL has them after its tokenizer."""
        data = self.data()
        found = []
        for step in self.plan():
            for index in step.rows:
                row = data.row(index)
                assert row.borders is not None
                first, second = row.borders
                ids = row.tokens.tolist()
                parts = {
                    "prompt": ids[:first],
                    "chosen": ids[first:second],
                    "rejected": ids[second:],
                }
                found.append({f"{name}_ids": part for name, part in parts.items()})
        return found


def prepare(data: Path, folder: Path) -> str:
    """Make the rows and the initial adapters.

    Args:
        data: Folder of the benchmark texts.
        folder: Where to.

    Returns:
        The model's folder.

    Raises:
        BenchmarkError: the data is missing.
    """
    if not (data / ROWS).exists():
        raise BenchmarkError(f"{data / ROWS} is absent; `ironcliw bench fetch-data` gets it")
    options = DataOptions(
        train=(str(data / ROWS),),
        columns={"prompt": "question", "completion": "answer"},
        # without the template's system prompt, which would be a third of a row
        plain_text=True,
    )
    return _prepare(options, folder)


def prepare_pairs(data: Path, folder: Path, count: int) -> str:
    """Make pairs and the initial adapters.

    Args:
        data: Folder of the benchmark texts.
        folder: Where to; it is made.
        count: The first so many pairs: all of them get a reference before the first step.

    Returns:
        The model's folder.

    Raises:
        BenchmarkError: the data is missing.
    """
    if not (data / PAIRS).exists():
        raise BenchmarkError(f"{data / PAIRS} is absent; `ironcliw bench fetch-data` gets it")
    folder.mkdir()
    first = (data / PAIRS).read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    rows = folder / "pairs.jsonl"
    rows.write_text("".join(first), encoding="utf-8")
    return _prepare(DataOptions(train=(str(rows),), plain_text=True), folder)


def _prepare(options: DataOptions, folder: Path) -> str:
    settings = load_settings()
    model = model_folder(MODEL, settings)
    rows = read_data(options, TrainingTokenizer.load(MODEL, settings)).train
    (folder / _DATA).write_bytes(pickle.dumps(rows))
    base = load_base(MODEL, model, weights_digest(model), torch.float32, _CPU)
    adapters = trainable(add_adapters(base, _config(str(model))))
    save_file({name: each.data.contiguous() for name, each in adapters}, folder / _ADAPTER)
    return str(model)


def tokens_of(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """Tokens of each step, and how many of them are supervised."""
    return [(step.tokens, step.supervised) for step in steps]


def _config(model: str, **changes: Any) -> TrainingConfig:
    given = {
        "model_name": model,
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "learning_rate": LEARNING_RATE,
        "clip_norm": CLIP_NORM,
        "schedule": "constant",
        "warmup_steps": 0,
        "seed": SEED,
        **changes,
    }
    return make_config(given, "the benchmark's configuration")
