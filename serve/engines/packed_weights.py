"""The BERT family's weights, taken from its files as each form of the encoder wants them.

D width, P positions, K inputs and N outputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from serve.engines.architecture import Architecture
from serve.engines.folder import EncoderFolder
from serve.engines.weights import LoadCounter, Weights

_ANCHOR = "embeddings.word_embeddings.weight"


@dataclass(frozen=True, slots=True)
class Affine:
    """A weight and a bias: of a linear layer ([N, K] and [N]) or a layer norm (both [D])."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; `qkv` has query, key and value below each other, [3 D, D]."""

    qkv: Affine
    attention_out: Affine
    attention_norm: Affine
    up: Affine
    down: Affine
    norm: Affine


class EncoderWeights:
    """An encoder's open files; as a context manager by `open_weights`.

    Args:
        weights: The open files, with the element type and device that tensors are wanted in.
        architecture: What `bert_like` made of the config.
    """

    def __init__(self, weights: Weights, architecture: Architecture) -> None:
        self._weights = weights
        self._architecture = architecture

    def words(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Word vectors [V, D]."""
        return self._weights.take(_ANCHOR, -1, self._architecture.hidden, dtype=dtype)

    def places(self) -> torch.Tensor:
        """Position vectors float32 [P, D], the token type's vector added once and for all."""
        width = self._architecture.hidden
        name = "embeddings.position_embeddings.weight"
        table = self._weights.take(name, -1, width, dtype=torch.float32)
        table = table[self._architecture.first_position :]
        if self._architecture.has_token_types:
            types = "embeddings.token_type_embeddings.weight"
            table = table + self._weights.take(types, -1, width, dtype=torch.float32)[0]
        return table.clone()

    def embedding_norm(self) -> Affine:
        """The layer norm of the embeddings."""
        return self._norm("embeddings.LayerNorm")

    def layers(self) -> Iterator[LayerWeights]:
        """Layer by layer, first to last; nothing is kept here."""
        for index in range(self._architecture.layers):
            yield self._layer(index)

    def _layer(self, index: int) -> LayerWeights:
        names = self._architecture.layer(index)
        width = self._architecture.hidden
        joined = (names.query, names.key, names.value)
        parts = [self._linear(name, width, width) for name in joined]
        up = self._linear(names.up, -1, width)
        return LayerWeights(
            qkv=Affine(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])),
            attention_out=self._linear(names.attention_out, width, width),
            attention_norm=self._norm(names.attention_norm),
            up=up,
            down=self._linear(names.down, width, len(up.bias)),
            norm=self._norm(names.norm),
        )

    def _linear(self, name: str, outputs: int, inputs: int) -> Affine:
        weight = self._weights.take(f"{name}.weight", outputs, inputs)
        return Affine(weight, self._weights.take(f"{name}.bias", len(weight)))

    def _norm(self, name: str) -> Affine:
        size = self._architecture.hidden
        take = self._weights.take
        return Affine(take(f"{name}.weight", size), take(f"{name}.bias", size))


@contextmanager
def open_weights(
    folder: EncoderFolder,
    architecture: Architecture,
    dtype: torch.dtype,
    device: torch.device,
    counter: LoadCounter | None,
) -> Iterator[EncoderWeights]:
    """Open a folder's weights; they stay mapped until the block ends."""
    with Weights(folder.tensors, _ANCHOR, dtype, device, counter) as weights:
        yield EncoderWeights(weights, architecture)
