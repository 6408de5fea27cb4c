"""Every architecture that transformers knows, padded, with texts of near lengths together.

Slower than packed.py and general: T5 encoders, MPNet, ModernBERT, GPT-2 and what comes next.
B texts, S the longest of a step, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForTextEncoding

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import ModelLoadError, UnavailableError
from serve.engines.checks import InputLimits
from serve.engines.padded_model import (
    STEP_TOKENS,
    fixed_arguments,
    held_bytes,
    load_model,
    padded,
)
from serve.engines.pooling import Head
from serve.engines.protocol import PackedTokens, Vectors
from serve.engines.weights import LoadCounter

_ENCODER_OF_PAIR = frozenset({"t5", "mt5", "umt5"})
"""Encoder-decoders of which sentence-transformers, too, takes the encoder alone."""


class PaddedEncoder:
    """An EmbeddingEngine around a transformers model. One caller at a time.

    Args:
        folder: The model's folder, read and checked.
        device: Where to compute.
        dtype: Precision of the model; pooling and normalisation are fp32.
        counter: Told of the weights that are taken: the transformer's at once, for transformers
            does not say how far it is.
    """

    def __init__(
        self,
        folder: EncoderFolder,
        device: torch.device,
        dtype: torch.dtype,
        counter: LoadCounter | None = None,
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._model: Any = _load(folder, dtype).to(device)
        if counter is not None:
            counter.add(sum(tensor.nbytes for tensor in folder.tensors.values()))
        self._fixed = fixed_arguments(self._model)
        words = self._model.get_input_embeddings()
        with torch.inference_mode():
            self._head = Head(folder.head, _hidden(self._model.config), device, counter)
        self._limits = InputLimits(int(words.weight.shape[0]), folder.max_tokens)
        self._pad = int(folder.config.get("pad_token_id") or 0)

    @property
    def dimensions(self) -> int:
        return self._head.dimensions

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def precision(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    @property
    def resident_bytes(self) -> int:
        if self._model is None:
            return self._head.resident_bytes
        return held_bytes(self._model) + self._head.resident_bytes

    def embed(self, batch: PackedTokens) -> Vectors:
        if self._model is None:
            raise UnavailableError("this engine was closed; load the model again")
        self._limits.check(batch)
        order = np.argsort(-batch.lengths, kind="stable")
        offsets = np.concatenate(([0], np.cumsum(batch.lengths)))
        result = torch.empty(len(order), self.dimensions)
        with torch.inference_mode():
            start = 0
            while start < len(order):
                longest = int(batch.lengths[order[start]])
                texts = order[start : start + max(1, STEP_TOKENS // longest)]
                result[torch.from_numpy(texts)] = self._step(batch, texts, offsets).cpu()
                start += len(texts)
        return result.numpy()

    def close(self) -> None:
        self._model = None

    def _step(
        self, batch: PackedTokens, texts: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]
    ) -> torch.Tensor:
        """Vectors of some texts, sorted longest first."""
        ids, mask = (
            torch.from_numpy(part).to(self._device)
            for part in padded(batch, texts, offsets, self._pad)
        )
        output = self._model(input_ids=ids, attention_mask=mask, **self._fixed)
        hidden = output.last_hidden_state.flatten(0, 1)
        starts = torch.arange(len(texts), device=self._device) * ids.shape[1]
        return self._head(hidden, starts, mask.sum(1))


def _load(folder: EncoderFolder, dtype: torch.dtype) -> Any:
    model, missing = load_model(folder, dtype, _kind, "model")
    missing = [name for name in missing if "pooler" not in name]
    if missing:
        raise ModelLoadError(
            f"{folder.transformer} lacks {len(missing)} tensors that its config.json calls for, "
            f"first {missing[0]!r}; download the model again"
        )
    return model


def _kind(config: Any) -> Any:
    return AutoModelForTextEncoding if config.model_type in _ENCODER_OF_PAIR else AutoModel


def _hidden(config: Any) -> int:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(text.hidden_size)
