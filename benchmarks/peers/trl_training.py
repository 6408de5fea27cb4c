"""TRL's SFTTrainer, as it comes and tuned for this work.

From an environment of its own (`make bench-peers`), behind ours on the path: torch, transformers
and peft are the same for both.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from benchmarks.peers.plain_training import arguments, load_adapter, lora_config, noting
from benchmarks.peers.trl_loss_head import site_packages
from benchmarks.training_contestant import Recorder
from benchmarks.training_work import Work

DTYPE_NAMES = {"bf16": "bfloat16", "fp32": "float32"}


def train_default(work: Work, recorder: Recorder) -> None:
    """Nothing changed but the precision: gradient checkpointing, weights in float32, padding."""
    _train(work, recorder, {})


def train_tuned(work: Work, recorder: Recorder) -> None:
    """Without gradient checkpointing."""
    _train(work, recorder, {"gradient_checkpointing": False})


def libraries() -> tuple[Any, Any]:
    """TRL and datasets.

    Raises:
        ModuleNotFoundError: they are not installed.
    """
    found = site_packages()
    if found is None:
        raise ModuleNotFoundError("trl is absent", name="trl")
    sys.path.append(str(found))
    return importlib.import_module("trl"), importlib.import_module("datasets")


def _train(work: Work, recorder: Recorder, changes: dict[str, Any]) -> None:
    trl, datasets = libraries()
    # rows are given in order, and none is longer than a row of ours may be
    given = {"shuffle_dataset": False, "max_length": None, **changes}
    trainer: Any = noting(trl.SFTTrainer, recorder)(
        model=work.model,
        args=trl.SFTConfig(**arguments(work, recorder), **given),
        train_dataset=datasets.Dataset.from_list(work.rows()),
        peft_config=lora_config(),
    )
    load_adapter(trainer.model, work)
    trainer.train()
