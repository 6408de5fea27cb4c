"""Every architecture that transformers knows, padded, with texts of near lengths together.

Slower than packed.py and general: T5 encoders, MPNet, ModernBERT, GPT-2 and what comes next.
B texts, S the longest of a step, D width.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

from ironcliw.errors import ModelLoadError, UnavailableError
from serve.engines.checks import InputLimits
from serve.engines.folder import EncoderFolder
from serve.engines.pooling import Head
from serve.engines.protocol import PackedTokens, Vectors
from serve.engines.weights import LoadCounter

STEP_TOKENS = 2048
"""Tokens of one step, padding included; a longer text is a step of its own."""

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
        accepted = inspect.signature(self._model.forward).parameters
        self._fixed = {"use_cache": False} if "use_cache" in accepted else {}
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
        # parameters() and buffers() name a shared tensor once
        held: list[torch.Tensor] = [*self._model.parameters(), *self._model.buffers()]
        return sum(tensor.nbytes for tensor in held) + self._head.resident_bytes

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
        lengths = batch.lengths[texts].astype(np.int64)
        width = int(lengths[0])
        ids = np.full((len(texts), width), self._pad, dtype=np.int64)
        for row, text in enumerate(texts):
            ids[row, : lengths[row]] = batch.tokens[offsets[text] : offsets[text + 1]]
        mask = torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64))
        output = self._model(
            input_ids=torch.from_numpy(ids).to(self._device),
            attention_mask=mask.to(self._device),
            **self._fixed,
        )
        hidden = output.last_hidden_state.flatten(0, 1)
        starts = torch.arange(len(texts), device=self._device) * width
        return self._head(hidden, starts, torch.from_numpy(lengths).to(self._device))


def _load(folder: EncoderFolder, dtype: torch.dtype) -> Any:
    path = str(folder.transformer)
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(path, **local)
        kind = AutoModelForTextEncoding if config.model_type in _ENCODER_OF_PAIR else AutoModel
        # low_cpu_mem_usage is the default: weights go straight into the model, in this precision
        model, found = kind.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **local,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelLoadError(
            f"{path}: transformers cannot load a {folder.config.get('model_type')!r} model "
            f"({error})"
        ) from error
    missing = sorted(name for name in found["missing_keys"] if "pooler" not in name)
    if missing:
        # transformers would fill these with random numbers
        raise ModelLoadError(
            f"{path} lacks {len(missing)} tensors that its config.json calls for, first "
            f"{missing[0]!r}; download the model again"
        )
    return model.eval().requires_grad_(False)


def _hidden(config: Any) -> int:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(text.hidden_size)
