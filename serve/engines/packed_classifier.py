"""Sequence classifiers on compiled kernels: BERT's family and BART, without padding.

B texts, T tokens, D width, C classes.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

import torch

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import UnavailableError
from serve.engines.architecture import bert_like
from serve.engines.bart import BartBody
from serve.engines.bart_weights import bart_like
from serve.engines.bert import BertBody
from serve.engines.checks import InputLimits, require_end
from serve.engines.classification_head import ClassificationHead
from serve.engines.native_stack import Texts, name_of, steps
from serve.engines.pair_tokenizer import PairEncoder
from serve.engines.protocol import PackedTokens, Vectors
from serve.engines.threads import threads_for
from serve.engines.weights import LoadCounter

# one thread is enough for a small batch only where a token costs little as well
SMALL_MODEL_BYTES = 200_000_000


class Body(Protocol):
    """A classifier without its head."""

    vocabulary: int
    positions: int
    step_tokens: int
    end: int | None
    """The token at whose last place an answer is read; None where it is read at the first place."""

    @property
    def resident_bytes(self) -> int:
        """Bytes of all its weights."""
        ...

    def rows(self, texts: Texts) -> torch.Tensor:
        """The row of each text that the head reads, float32 [B, D]."""
        ...


class PackedClassifier:
    """A ClassificationEngine. One caller at a time.

    Args:
        body: The model below the head.
        head: From a row to logits.
        dtype: What the body keeps its weights as.
        window: The most tokens of a text, as the folder says.
    """

    def __init__(
        self, body: Body, head: ClassificationHead, dtype: torch.dtype, window: int
    ) -> None:
        self._body: Body | None = body
        self._head = head
        self._dtype = dtype
        self._limits = InputLimits(body.vocabulary, min(window, body.positions))
        self._bytes = self.resident_bytes
        self.labels: tuple[str, ...] = head.labels

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def precision(self) -> str:
        return name_of(self._dtype)

    @property
    def resident_bytes(self) -> int:
        return 0 if self._body is None else self._body.resident_bytes + self._head.resident_bytes

    def classify(self, batch: PackedTokens) -> Vectors:
        """Logits, float32 [B, C], in order; see `ClassificationEngine`."""
        if self._body is None:
            raise UnavailableError("this engine was closed; load the model again")
        self._limits.check(batch)
        if self._body.end is not None:
            require_end(batch, self._body.end)
        with torch.inference_mode(), self._threads(len(batch.tokens)):
            rows = [self._body.rows(texts) for texts in steps(batch, self._body.step_tokens)]
            return self._head(rows[0] if len(rows) == 1 else torch.cat(rows)).numpy()

    def close(self) -> None:
        self._body = None

    def _threads(self, tokens: int) -> contextlib.AbstractContextManager[None]:
        if self._bytes > SMALL_MODEL_BYTES:
            return contextlib.nullcontext()
        return threads_for(torch.device("cpu"), tokens)


def packed_classifier(
    folder: EncoderFolder, dtype: torch.dtype, counter: LoadCounter | None
) -> PackedClassifier | None:
    """The model on compiled kernels; None where they do not compute its architecture.

    Args:
        folder: The model's folder, read and checked.
        dtype: What weights are kept as: float32, bfloat16 or int8.
        counter: Told of the weights that are taken.

    Raises:
        ModelLoadError: the files do not fit the architecture, or have no classifier's head.
    """
    bart, bert = bart_like(folder.config), bert_like(folder.config)
    body: Body
    if bart is not None:
        head = ClassificationHead(folder, bart.hidden, counter)
        body = BartBody(folder, bart, dtype, counter)
    elif bert is not None:
        head = ClassificationHead(folder, bert.hidden, counter)
        separator = PairEncoder(folder).separator if bert.has_token_types else None
        body = BertBody(folder, bert, dtype, separator, counter)
    else:
        return None
    return PackedClassifier(body, head, dtype, folder.max_tokens)
