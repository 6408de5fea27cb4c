"""What is refused before a run begins: a model without room, and data of another tokenizer."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from ironcliw.errors import TrainingError
from train.config import TrainingConfig
from train.data.tokenized import TokenizedData
from train.model.memory import available_bytes, check_memory
from train.model.sizes import read_sizes

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
