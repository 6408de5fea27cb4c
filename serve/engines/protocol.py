"""What a model engine is: three steps, of which only the middle one needs the device.

    prepare (CPU, ingress)  ->  forward (device, replica)  ->  finish (CPU, ingress)

Shapes: B texts, T tokens of the whole batch (packed, no padding), D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ironcliw.adapter_catalog import AdapterCard

Tokens = npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as tokens.

    Attributes:
        tokens: int32 [T], special tokens included.
        truncated: How many tokens were cut off to fit the model's window.
    """

    tokens: Tokens
    truncated: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedTokens:
    """One sequence for a model under an adapter, among others for its base and its adapters.

    Attributes:
        tokens: int32 [T].
        adapter: That the model is under.
    """

    tokens: Tokens
    adapter: AdapterCard

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """B token sequences end to end, the form that travels to a replica.

    Attributes:
        tokens: int32 [T].
        lengths: int32 [B]; sums to T.
        adapters: Those that sequences are under, each once. They travel with the batch, since a
            replica in the cloud has no register of adapters.
        under: int32 [B], which of them each sequence is under, -1: none; empty where there are
            none.
    """

    tokens: Tokens
    lengths: npt.NDArray[np.int32]
    adapters: tuple[AdapterCard, ...] = ()
    under: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    @classmethod
    def pack(cls, sequences: Sequence[Tokens | AdaptedTokens]) -> PackedTokens:
        """Join sequences; raises ValueError when there are none or one is empty."""
        lengths = np.fromiter((len(s) for s in sequences), dtype=np.int32, count=len(sequences))
        if len(lengths) == 0 or int(lengths.min()) < 1:
            raise ValueError(f"cannot pack sequences of the lengths {lengths.tolist()}")
        plain = [s.tokens if isinstance(s, AdaptedTokens) else s for s in sequences]
        tokens = np.concatenate(plain).astype(np.int32, copy=False)
        if not any(isinstance(s, AdaptedTokens) for s in sequences):
            return cls(tokens, lengths)
        places: dict[AdapterCard, int] = {}
        under = [
            places.setdefault(s.adapter, len(places)) if isinstance(s, AdaptedTokens) else -1
            for s in sequences
        ]
        return cls(tokens, lengths, tuple(places), np.array(under, np.int32))

    def all_under(self, adapter: AdapterCard) -> PackedTokens:
        """The same, each sequence under one adapter."""
        return replace(self, adapters=(adapter,), under=np.zeros(len(self.lengths), np.int32))

    def part(self, places: npt.NDArray[np.intp]) -> PackedTokens:
        """Some of the sequences, in the order of their places."""
        ends = np.cumsum(self.lengths)
        parts = [self.tokens[ends[at] - self.lengths[at] : ends[at]] for at in places]
        under = self.under[places] if len(self.under) else self.under
        return PackedTokens(np.concatenate(parts), self.lengths[places], self.adapters, under)


class EmbeddingEngine(Protocol):
    """The device half of an embedding model. Not thread-safe: one caller at a time."""

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        ...

    @property
    def device(self) -> str:
        """Where the weights are: `cpu`, `mps`, `cuda:0`."""
        ...

    @property
    def precision(self) -> str:
        """The precision of the matrix products: `float32`, `bfloat16`, `float16`."""
        ...

    @property
    def resident_bytes(self) -> int:
        """Bytes that the weights and prepared buffers hold while loaded."""
        ...

    def embed(self, batch: PackedTokens) -> Vectors:
        """Pooled (and, if the model says so, normalised) vectors, float32 [B, D], in order.

        Raises:
            ValueError: a token id is outside the vocabulary or a sequence is too long.
        """
        ...

    def close(self) -> None:
        """Free the weights; the engine cannot be used afterwards."""
        ...


class ClassificationEngine(Protocol):
    """The device half of a sequence classifier with C classes. One caller at a time."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The C classes' names, in the order of the logits."""
        ...

    @property
    def device(self) -> str:
        """As of `EmbeddingEngine`."""
        ...

    @property
    def precision(self) -> str:
        """As of `EmbeddingEngine`."""
        ...

    @property
    def resident_bytes(self) -> int:
        """As of `EmbeddingEngine`."""
        ...

    def classify(self, batch: PackedTokens) -> Vectors:
        """Logits, float32 [B, C], in order. A pair of texts is one sequence with its separators.

        Raises:
            RequestError, ContextLengthError: see `serve.engines.checks`.
        """
        ...

    def close(self) -> None:
        """Free the weights; the engine cannot be used afterwards."""
        ...
