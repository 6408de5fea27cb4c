"""What transformers' own modules need on either side of them: weights in, padded rows in.

B texts, S the longest of a step, V words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import ModelLoadError
from serve.engines.protocol import PackedTokens

STEP_TOKENS = 2048
"""Tokens of one step, padding included; a longer text is a step of its own."""


def load_model(
    folder: EncoderFolder, dtype: torch.dtype, kind: Callable[[Any], Any], what: str
) -> tuple[Any, list[str]]:
    """A module that computes, and the names of tensors that its folder lacks.

    Args:
        folder: Read and checked.
        dtype: Of the weights.
        kind: From a config to the class of `AutoModel`'s kind that loads it.
        what: The model's purpose, for the error.

    Raises:
        ModelLoadError: transformers does not know the architecture or cannot read the folder.
    """
    path = str(folder.transformer)
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(path, **local)
        # low_cpu_mem_usage is the default: weights go straight into the model, in this precision
        model, found = kind(config).from_pretrained(
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **local,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelLoadError(
            f"{path}: transformers cannot load a {folder.config.get('model_type')!r} {what} "
            f"({error})"
        ) from error
    # transformers fills what is missing with random numbers: the caller must refuse it
    return model.eval().requires_grad_(False), sorted(found["missing_keys"])


def fixed_arguments(model: Any) -> dict[str, Any]:
    """Arguments of every call."""
    accepted = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in accepted else {}


def held_bytes(model: Any) -> int:
    """Bytes of a module's weights."""
    # parameters() and buffers() name a shared tensor once
    held: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    return sum(tensor.nbytes for tensor in held)


def padded(
    batch: PackedTokens, texts: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], pad: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids and mask of some texts, each int64 [B, S].

    Args:
        batch: All texts.
        texts: Which, longest first.
        offsets: Where each text of the batch begins.
        pad: Token behind the ends.
    """
    lengths = batch.lengths[texts].astype(np.int64)
    width = int(lengths[0])
    ids = np.full((len(texts), width), pad, dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : lengths[row]] = batch.tokens[offsets[text] : offsets[text + 1]]
    return ids, (np.arange(width) < lengths[:, None]).astype(np.int64)
