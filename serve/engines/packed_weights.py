"""The BERT family's weights, taken from its files as each form of the encoder wants them.

D width, P positions, K inputs and N outputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ironcliw.encoder_folder import EncoderFolder
from serve.engines.architecture import Architecture
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

    def second_type(self) -> torch.Tensor:
        """What a token of a pair's second text has over one of the first, float32 [D]."""
        name = "embeddings.token_type_embeddings.weight"
        table = self._weights.take(name, -1, self._architecture.hidden, dtype=torch.float32)
        if len(table) < 2:
            return torch.zeros_like(table[0])
        return table[1] - table[0]

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
        parts = (names.query, names.key, names.value)
        up = self._linear(names.up, -1, width)
        return LayerWeights(
            qkv=joined([self._linear(name, width, width) for name in parts]),
            attention_out=self._linear(names.attention_out, width, width),
            attention_norm=self._norm(names.attention_norm),
            up=up,
            down=self._linear(names.down, width, len(up.bias)),
            norm=self._norm(names.norm),
        )

    def _linear(self, name: str, outputs: int, inputs: int) -> Affine:
        return linear_of(self._weights, name, outputs, inputs)

    def _norm(self, name: str) -> Affine:
        return norm_of(self._weights, name, self._architecture.hidden)


def linear_of(weights: Weights, name: str, outputs: int, inputs: int) -> Affine:
    """A linear layer's weight and bias; -1 where any number of outputs will do."""
    weight = weights.take(f"{name}.weight", outputs, inputs)
    return Affine(weight, weights.take(f"{name}.bias", len(weight)))


def norm_of(weights: Weights, name: str, size: int) -> Affine:
    """A layer norm's weight and bias."""
    return Affine(weights.take(f"{name}.weight", size), weights.take(f"{name}.bias", size))


def joined(parts: Sequence[Affine]) -> Affine:
    """Linear layers of the same input below each other, as one."""
    return Affine(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]))


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
