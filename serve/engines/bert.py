"""BERT, DistilBERT and RoBERTa on compiled kernels, up to the row that a classifier reads.

B texts, T tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ironcliw.encoder_folder import EncoderFolder
from serve.engines.architecture import Architecture
from serve.engines.native_stack import Texts, read_bert
from serve.engines.packed_weights import open_weights
from serve.engines.weights import LoadCounter

STEP_TOKENS = 16384
"""Tokens of one call: bounds what the rows of a huge batch take."""


class BertBody:
    """An encoder; see `serve.engines.packed_classifier.Body`.

    Args:
        folder: The model's folder, read and checked.
        architecture: What `bert_like` made of its config.
        dtype: What weights are kept as: float32, bfloat16 or int8.
        separator: The token behind which a pair's second text begins, where the model has a token
            type for that; None where it has not.
        counter: Told of the weights that are taken.
    """

    step_tokens = STEP_TOKENS
    end: int | None = None

    def __init__(
        self,
        folder: EncoderFolder,
        architecture: Architecture,
        dtype: torch.dtype,
        separator: int | None,
        counter: LoadCounter | None,
    ) -> None:
        cpu = torch.device("cpu")
        self._separator = separator if architecture.has_token_types else None
        self._second: torch.Tensor | None = None
        with open_weights(folder, architecture, torch.float32, cpu, counter) as weights:
            self._words, self._stack = read_bert(weights, architecture, dtype)
            if self._separator is not None:
                self._second = weights.second_type()
        self.vocabulary, self.positions = len(self._words), self._stack.positions

    @property
    def resident_bytes(self) -> int:
        second = 0 if self._second is None else self._second.nbytes
        return self._words.nbytes + second + self._stack.resident_bytes

    def rows(self, texts: Texts) -> torch.Tensor:
        if self._second is None:
            hidden = self._stack(texts, self._words)
        else:
            # token by token, so that a type can be added: the operator looks up words alone
            words = F.embedding(texts.tokens, self._words).float()
            words += self._second_part(texts)[:, None] * self._second
            each = torch.arange(len(words), dtype=torch.int32)
            hidden = self._stack(Texts(each, texts.starts), words)
        return hidden[texts.starts[:-1].long()]

    def _second_part(self, texts: Texts) -> torch.Tensor:
        """1 behind the first separator of each text, 0 up to it; float32 [T]."""
        here = torch.eq(texts.tokens, self._separator or 0).long()
        before = here.cumsum(0) - here
        starts = texts.starts.long()
        at_start = before[starts[:-1]].repeat_interleave(starts.diff())
        return torch.gt(before, at_start).float()
