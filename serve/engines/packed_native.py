"""The packed encoder on compiled kernels: one operator for all layers, one for pooling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ironcliw.encoder_folder import EncoderFolder
from serve.engines.architecture import Architecture
from serve.engines.encoder_adapters import EncoderAdapter, read_encoder_adapter
from serve.engines.native_stack import read_bert, steps
from serve.engines.packed_weights import open_weights
from serve.engines.pooling import Head
from serve.engines.protocol import PackedTokens
from serve.engines.weights import LoadCounter

STEP_TOKENS = 16384
"""Tokens of one call: bounds what the rows of a huge batch take."""


class NativeLayers:
    """All layers and the pooling, of float32, bf16 or int8 weights on the CPU.

    Args:
        folder: The model's folder, read and checked.
        architecture: What `bert_like` made of its config.
        dtype: What weights are kept as; sums, norms and softmax are float32.
        head: What follows the layers.
        counter: Told of the weights that are taken.
    """

    def __init__(
        self,
        folder: EncoderFolder,
        architecture: Architecture,
        dtype: torch.dtype,
        head: Head,
        counter: LoadCounter | None,
    ) -> None:
        self._head = head
        self._architecture = architecture
        cpu = torch.device("cpu")
        with open_weights(folder, architecture, torch.float32, cpu, counter) as weights:
            self._words, self._stack = read_bert(weights, architecture, dtype)
        self.vocabulary, self.positions = len(self._words), self._stack.positions

    @property
    def resident_bytes(self) -> int:
        """Bytes of all weights but the head's."""
        return self._words.nbytes + self._stack.resident_bytes

    def vectors(self, batch: PackedTokens, adapters: Sequence[EncoderAdapter] = ()) -> torch.Tensor:
        """Texts to vectors, float32 [B, dimensions], in order.

        Args:
            batch: Its `under` says which adapter each text is under. Fastest where texts under the
                same one are neighbours.
            adapters: Those of `batch.adapters`, loaded.
        """
        packed = [adapter.packed for adapter in adapters]
        parts = [
            self._head.packed(self._stack(texts, self._words, packed), texts.starts)
            for texts in steps(batch, STEP_TOKENS)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def read_adapter(self, folder: Path) -> EncoderAdapter:
        """An adapter of this model; in any thread, while batches are computed.

        Raises:
            AdapterError: its files are damaged, or it is of another kind or model.
        """
        return read_encoder_adapter(self._architecture, self._stack.sizes, folder)
