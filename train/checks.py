"""What is refused before a run begins: a model without room, data of another tokenizer, and another
run under the name of one that was begun."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ironcliw.errors import SettingsError, TrainingError
from train.checkpoint.store import CheckpointStore
from train.config import TrainingConfig
from train.data.tokenized import TokenizedData
from train.fingerprint import ALLOW
from train.model.memory import available_bytes, check_memory
from train.model.sizes import read_sizes
from train.run_files import CHECKPOINTS, CONFIG, OUTCOME, RunFiles

logger = logging.getLogger(__name__)


def check_room(
    config: TrainingConfig,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    workers: int,
    *,
    begun: bool,
) -> None:
    """Refuse to begin what has no room.

    Args:
        config: Of the run.
        folder: Of the model.
        dtype: Of its weights in memory.
        device: Where to.
        workers: Over which the shards are spread.
        begun: Whether the run got further already: then there was room, and it is warned only.

    Raises:
        TrainingError: as `check_memory`.
    """
    sizes = read_sizes(folder)
    if sizes is None:
        logger.warning("%s: its need of memory is not known before it is loaded", folder)
        return
    available = available_bytes(device)
    try:
        check_memory(config.model_name, sizes, config, dtype, available, workers)
    except TrainingError as error:
        if not begun:
            raise
        logger.warning("%s", error.message)


def check_tokens(name: str, known: int, *data: TokenizedData | None) -> None:
    """Refuse rows with tokens that the model has no embedding for.

    Args:
        name: Of the model.
        known: How many tokens it has.
        data: The rows.

    Raises:
        TrainingError: there is one.
    """
    for rows in data:
        if rows is None or not len(rows.tokens) or (token := int(rows.tokens.max())) < known:
            continue
        row = int(np.searchsorted(rows.offsets, int(rows.tokens.argmax()), side="right")) - 1
        raise TrainingError(
            f"{rows.source(row)} has token {token}, and model {name!r} knows {known}: its "
            "tokenizer.json belongs to another model; fetch the model's own",
            code="unknown_token",
        )


def check_same_run(
    name: str, files: RunFiles, numbers: Mapping[str, Any], *, allow_inexact: bool = False
) -> None:
    """Refuse another run under the name of one that is finished, or that has saved steps.

    What the machines differ in is told by the checkpoint's fingerprint, when a worker reads it.

    Args:
        name: Of both.
        files: Of the one that was begun, if any was.
        numbers: What the bits of the wanted one depend on.
        allow_inexact: Go on from saved steps with other numbers; never with another model.

    Raises:
        SettingsError: it is another one. Nothing was written.
    """
    before = (files.read(CONFIG) or {}).get("numbers", {})
    changed = sorted(key for key in numbers if key in before and before[key] != numbers[key])
    if not changed:
        return
    outcome = files.read(OUTCOME) or {}
    if outcome.get("outcome", "failed") != "failed":
        raise SettingsError(
            f"run {name} is finished ({files.uri}), and with other values of "
            f"{', '.join(changed)}; give this run a name and a checkpoint.storage of its own"
        )
    saved = CheckpointStore(files.path(CHECKPOINTS), read_only=True).all()
    if saved and ("model" in changed or not allow_inexact):
        advice = "" if "model" in changed else f", or {ALLOW} to go on all the same, with a mark"
        raise SettingsError(
            f"run {name} has saved {saved[0].step} steps ({files.uri}), with other values of "
            f"{', '.join(changed)}; give those, or a name and a checkpoint.storage of its own to "
            f"this run{advice}"
        )
