"""Layers of attention and feed-forward on compiled kernels: all of them are one operator.

Each thread takes a block of texts through all layers at once, so that threads meet once a batch and
not in every operator, and a block stays in its core's cache.

B texts, T tokens, D width, V words, P positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from native_ops import binary
from native_ops.encoder import encoder_forward, encoder_linear, encoder_pack
from native_ops.encoder_adapters import EncoderSizes, PackedEncoderAdapter
from native_ops.encoder_layout import qkv_number
from serve.engines.architecture import Architecture
from serve.engines.packed_weights import Affine, EncoderWeights, LayerWeights
from serve.engines.protocol import PackedTokens

_LEVELS = {
    torch.float32: frozenset({"avx2", "avx512", "avx512_bf16", "amx"}),
    torch.bfloat16: frozenset({"avx512_bf16", "amx"}),
    torch.int8: frozenset(
        {"baseline", "avx2", "avx512", "avx512_bf16", "amx", "neon", "neon_i8mm"}
    ),
}


def native_suits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the compiled kernels are the fast way: where they were measured to be.

    Elsewhere PyTorch's own products are used. On aarch64 the kernels for float32 and bf16 exist and
    are tested, under emulation, which tells nothing of speed; Apple's library computes float32 in
    the matrix unit (AMX), which no kernel in NEON reaches, and no NEON level of ours has bf16
    products, so bf16 would be widened to float32. Whoever measures the kernels ahead on such a
    machine adds its level above. For bf16 without bf16 instructions nothing is fast. int8 is there
    on every level: PyTorch has nothing like it.
    """
    return device.type == "cpu" and binary.state().level in _LEVELS.get(dtype, frozenset())


@dataclass(frozen=True, slots=True)
class Texts:
    """Some texts of a batch that go through a model together.

    Attributes:
        tokens: int32 [T].
        starts: int32 [B + 1], where texts begin, and T.
        under: int32 [B], which of the batch's adapters each text is under, -1: none; empty where
            there are none.
    """

    tokens: torch.Tensor
    starts: torch.Tensor
    under: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int32))


def steps(batch: PackedTokens, most: int) -> Iterator[Texts]:
    """A batch in runs of whole texts of `most` tokens together, or of one text that is longer.

    It bounds what the rows of a huge batch take.
    """
    ends = np.cumsum(batch.lengths, dtype=np.int64)
    first = done = 0
    while first < len(ends):
        last = max(int(np.searchsorted(ends, done + most, side="right")), first + 1)
        end = int(ends[last - 1])
        tokens, under = _own(batch.tokens[done:end]), _own(batch.under[first:last])
        yield Texts(tokens, starts_of(ends[first:last] - done), under)
        first, done = last, end


def starts_of(ends: npt.NDArray[np.int64]) -> torch.Tensor:
    """Where texts end, int64 [B], as operators want it: int32 [B + 1], 0 first."""
    starts = torch.zeros(len(ends) + 1, dtype=torch.int32)
    starts[1:] = torch.from_numpy(ends)
    return starts


def _own(numbers: npt.NDArray[np.int32]) -> torch.Tensor:
    # a copy: torch warns of arrays that cannot be written, as those that Ray shares
    return torch.from_numpy(numbers.astype(np.int32))


def name_of(dtype: torch.dtype) -> str:
    """The operators' name of what weights are kept as."""
    return str(dtype).removeprefix("torch.")


class PackedLinear:
    """A linear layer's weight, rounded and laid out for the kernels.

    Args:
        taken: Weight and bias, float32.
        number: What the weight is kept as.
    """

    def __init__(self, taken: Affine, number: str) -> None:
        self._number = number
        self._weight = encoder_pack(taken.weight, number)
        self._bias = taken.bias
        self.resident_bytes: int = self._weight.nbytes + self._bias.nbytes

    def __call__(self, x: torch.Tensor, activation: str = "none") -> torch.Tensor:
        """[T, K] to [T, N]; a row's bits depend on that row alone."""
        y: torch.Tensor = encoder_linear(x, self._weight, self._bias, activation, self._number)
        return y


class NativeStack:
    """The layers of an encoder of the BERT kind: each part is followed by a layer norm.

    Args:
        dtype: What weights are kept as: float32, bfloat16 or int8.
        heads: Attention heads.
        activation: Between the feed-forward products.
        epsilon: Of every layer norm.
        places: float32 [P, D], position vectors.
        norm: Of the embeddings.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        heads: int,
        activation: str,
        epsilon: float,
        places: torch.Tensor,
        norm: Affine,
    ) -> None:
        self._number = name_of(dtype)
        self._heads, self._activation, self._epsilon = heads, activation, epsilon
        self._places = places
        self._weights: list[torch.Tensor] = []
        self._vectors = [norm.weight, norm.bias]
        self._inner = places.shape[1]

    @property
    def positions(self) -> int:
        """P."""
        return len(self._places)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all that the layers hold."""
        return sum(tensor.nbytes for tensor in (self._places, *self._weights, *self._vectors))

    def add(self, layer: LayerWeights) -> None:
        """Take the next layer's weights, float32; they are copied."""
        linears = (layer.qkv, layer.attention_out, layer.up, layer.down)
        numbers = (qkv_number(self._number), *[self._number] * 3)
        self._weights += [
            encoder_pack(linear.weight, number)
            for linear, number in zip(linears, numbers, strict=True)
        ]
        self._vectors += [linear.bias for linear in linears]
        for norm in (layer.attention_norm, layer.norm):
            self._vectors += [norm.weight, norm.bias]
        self._inner = len(layer.up.bias)

    @property
    def sizes(self) -> EncoderSizes:
        """What an adapter of these layers must fit."""
        layers = len(self._weights) // 4
        return EncoderSizes(layers, self._places.shape[1], self._inner, self._number)

    def __call__(
        self,
        texts: Texts,
        words: torch.Tensor,
        adapters: Sequence[PackedEncoderAdapter] = (),
    ) -> torch.Tensor:
        """Tokens to the last layer's rows, float32 [T, D].

        Args:
            texts: Token ids below V.
            words: [V, D], float32 or bfloat16.
            adapters: Those that texts are under.
        """
        rows: torch.Tensor = encoder_forward(
            texts.tokens,
            texts.starts,
            words,
            self._places,
            self._weights,
            self._vectors,
            self._heads,
            self._inner,
            self._epsilon,
            self._activation,
            self._number,
            [adapter.weights for adapter in adapters],
            [adapter.ranks for adapter in adapters],
            texts.under,
        )
        return rows


def read_bert(
    weights: EncoderWeights, architecture: Architecture, dtype: torch.dtype
) -> tuple[torch.Tensor, NativeStack]:
    """The words, [V, D], and the layers of BERT, DistilBERT or RoBERTa.

    Args:
        weights: Opened as float32 on the CPU.
        architecture: What `bert_like` made of the model's config.
        dtype: What weights are kept as: float32, bfloat16 or int8 (then the words are bfloat16).
    """
    words = weights.words(torch.bfloat16 if dtype == torch.int8 else dtype)
    stack = NativeStack(
        dtype,
        architecture.heads,
        architecture.activation,
        architecture.norm_epsilon,
        weights.places(),
        weights.embedding_norm(),
    )
    for layer in weights.layers():
        stack.add(layer)
    return words, stack
