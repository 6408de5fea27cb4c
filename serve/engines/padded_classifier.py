"""Sequence classifiers in transformers' own modules, padded, with texts of near lengths together.

Slower than packed_classifier.py and general: encoders (DeBERTa, ELECTRA, ...) and encoder-decoders
that read the end token (T5, MBART), on any device. Not covered: models that read the last position
of a padded row (XLNet). B texts, S the longest of a step, C classes.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import ModelLoadError, UnavailableError
from serve.engines.checks import InputLimits, require_end
from serve.engines.packed_classifier import SMALL_MODEL_BYTES
from serve.engines.padded_model import (
    STEP_TOKENS,
    fixed_arguments,
    held_bytes,
    load_model,
    padded,
)
from serve.engines.pair_tokenizer import PairEncoder
from serve.engines.protocol import PackedTokens, Vectors
from serve.engines.threads import threads_for

_LAST_POSITION = frozenset({"xlnet"})


class PaddedClassifier:
    """A ClassificationEngine around a transformers model. One caller at a time.

    Args:
        folder: The model's folder, read and checked.
        device: Where to compute.
        dtype: Precision of the model.
    """

    def __init__(self, folder: EncoderFolder, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self._model: Any = _load(folder, dtype).to(device)
        config = self._model.config
        self.labels: tuple[str, ...] = tuple(
            str(config.id2label[index]) for index in range(config.num_labels)
        )
        accepted = inspect.signature(self._model.forward).parameters
        self._fixed = fixed_arguments(self._model)
        self._separator: int | None = None
        if "token_type_ids" in accepted and int(getattr(config, "type_vocab_size", 0) or 0) > 1:
            self._separator = PairEncoder(folder).separator
        # an encoder-decoder's head reads the last end token, and wants equally many in each row
        self._end: int | None = config.eos_token_id if config.is_encoder_decoder else None
        self._pad: int | None = config.pad_token_id
        words = self._model.get_input_embeddings()
        self._limits = InputLimits(int(words.weight.shape[0]), folder.max_tokens)
        self._bytes = self.resident_bytes

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def precision(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    @property
    def resident_bytes(self) -> int:
        if self._model is None:
            return 0
        return held_bytes(self._model)

    def classify(self, batch: PackedTokens) -> Vectors:
        """Logits, float32 [B, C], in order; see `ClassificationEngine`."""
        if self._model is None:
            raise UnavailableError("this engine was closed; load the model again")
        self._limits.check(batch)
        offsets = np.concatenate(([0], np.cumsum(batch.lengths)))
        ends = self._ends(batch)
        order = np.lexsort((-batch.lengths, ends))
        result = torch.empty(len(order), len(self.labels))
        with torch.inference_mode(), self._threads(len(batch.tokens)):
            start = 0
            while start < len(order):
                rows = self._next_step(batch, order, ends, start)
                result[torch.from_numpy(rows)] = self._step(batch, rows, offsets).float().cpu()
                start += len(rows)
        return result.numpy()

    def close(self) -> None:
        self._model = None

    def _threads(self, tokens: int) -> contextlib.AbstractContextManager[None]:
        if self._bytes > SMALL_MODEL_BYTES:
            return contextlib.nullcontext()
        return threads_for(self._device, tokens)

    def _ends(self, batch: PackedTokens) -> npt.NDArray[np.int64]:
        """End tokens of each text, int64 [B]; zeros where the head does not read them."""
        if self._end is None:
            return np.zeros(len(batch.lengths), np.int64)
        return require_end(batch, self._end)

    def _next_step(
        self,
        batch: PackedTokens,
        order: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
        start: int,
    ) -> npt.NDArray[np.int64]:
        """The texts from `start` on that are computed together, longest first."""
        if self._pad is None:
            return order[start : start + 1]
        longest = int(batch.lengths[order[start]])
        rows = order[start : start + max(1, STEP_TOKENS // longest)]
        together: npt.NDArray[np.int64] = rows[ends[rows] == ends[rows[0]]]
        return together

    def _step(
        self,
        batch: PackedTokens,
        rows: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
    ) -> torch.Tensor:
        ids, mask = padded(batch, rows, offsets, self._pad or 0)
        given = {"input_ids": ids, "attention_mask": mask}
        if self._separator is not None:
            given["token_type_ids"] = _second_part(ids, self._separator, mask)
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in given.items()}
        logits: torch.Tensor = self._model(**tensors, **self._fixed).logits
        return logits


def _second_part(
    ids: npt.NDArray[np.int64], separator: int, mask: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """1 behind the first separator of each row, 0 before it and in the padding; int64 [B, S]."""
    seen = np.cumsum(ids == separator, axis=1)
    behind = np.zeros_like(ids)
    behind[:, 1:] = seen[:, :-1] > 0
    return behind * mask


def _load(folder: EncoderFolder, dtype: torch.dtype) -> Any:
    path = str(folder.transformer)
    if folder.config.get("model_type") in _LAST_POSITION:
        raise ModelLoadError(
            f"{path} is of the type {folder.config['model_type']!r}, whose head reads the last "
            "position of a padded row, which is not supported; use another architecture"
        )
    model, missing = load_model(
        folder, dtype, lambda _: AutoModelForSequenceClassification, "classifier"
    )
    if missing:
        raise ModelLoadError(
            f"{path} lacks {len(missing)} tensors of a classifier, first {missing[0]!r}: it was "
            "not trained to classify, or the download is incomplete"
        )
    return model
