"""The BERT family without padding: the texts of a batch stand end to end through every layer.

B texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import UnavailableError, UnsupportedError
from serve.engines.architecture import Architecture
from serve.engines.checks import InputLimits
from serve.engines.encoder_adapters import EncoderAdapter
from serve.engines.native_stack import native_suits
from serve.engines.packed_native import NativeLayers
from serve.engines.packed_torch import TorchLayers
from serve.engines.pooling import Head
from serve.engines.protocol import PackedTokens, Vectors
from serve.engines.threads import threads_for
from serve.engines.weights import LoadCounter


class Layers(Protocol):
    """From tokens to vectors: the same computation on compiled kernels or in plain torch."""

    vocabulary: int
    positions: int

    @property
    def resident_bytes(self) -> int:
        """Bytes of all weights but the head's."""
        ...

    def vectors(self, batch: PackedTokens) -> torch.Tensor:
        """Texts to vectors, float32 [B, dimensions], in order."""
        ...


class PackedEncoder:
    """An EmbeddingEngine. One caller at a time.

    Args:
        folder: The model's folder, read and checked.
        architecture: What `bert_like` made of its config.
        device: Where to compute.
        dtype: Precision of the matrix products; pooling and normalisation are fp32.
        counter: Told of the weights that are taken.
    """

    def __init__(
        self,
        folder: EncoderFolder,
        architecture: Architecture,
        device: torch.device,
        dtype: torch.dtype,
        counter: LoadCounter | None = None,
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._layers: Layers | None
        with torch.inference_mode():
            self._head = Head(folder.head, architecture.hidden, device, counter)
            if native_suits(device, dtype):
                self._layers = NativeLayers(folder, architecture, dtype, self._head, counter)
            else:
                self._layers = TorchLayers(folder, architecture, device, dtype, self._head, counter)
        window = min(folder.max_tokens, self._layers.positions)
        self._limits = InputLimits(self._layers.vocabulary, window)

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
        layers = 0 if self._layers is None else self._layers.resident_bytes
        return layers + self._head.resident_bytes

    def embed(self, batch: PackedTokens) -> Vectors:
        if self._layers is None:
            raise UnavailableError("this engine was closed; load the model again")
        self._limits.check(batch)
        with torch.inference_mode(), threads_for(self._device, len(batch.tokens)):
            return self._layers.vectors(batch).numpy()

    def read_adapter(self, folder: Path) -> EncoderAdapter:
        """An adapter for texts of this model; in any thread, while batches are computed.

        Raises:
            AdapterError: its files are damaged, or it is of another kind or model.
            UnsupportedError: the encoder is computed by torch, which has no such products.
        """
        if not isinstance(self._layers, NativeLayers):
            raise UnsupportedError(
                f"the model runs on {self.device} in {self.precision}, where adapters are not "
                "computed; they need the compiled kernels on a CPU: merge the adapter and serve "
                "that as a model of its own",
                param="model",
            )
        return self._layers.read_adapter(folder)

    def embed_adapted(self, batch: PackedTokens, adapters: Sequence[EncoderAdapter]) -> Vectors:
        """As `embed`, of texts of which some are under an adapter.

        Args:
            batch: Its `under` says which adapter each text is under.
            adapters: Those of `batch.adapters`, loaded.
        """
        if not isinstance(self._layers, NativeLayers):
            raise UnavailableError("this engine was closed; load the model again")
        self._limits.check(batch)
        vectors = np.empty((len(batch.lengths), self.dimensions), np.float32)
        order = np.argsort(batch.under, kind="stable")  # an adapter's weights are read once then
        with torch.inference_mode(), threads_for(self._device, len(batch.tokens)):
            vectors[order] = self._layers.vectors(batch.part(order), adapters).numpy()
        return vectors

    def close(self) -> None:
        self._layers = None
