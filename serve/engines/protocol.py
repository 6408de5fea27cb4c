"""What a model engine is: three steps, of which only the middle one needs the device.

    prepare (CPU, ingress)  ->  forward (device, replica)  ->  finish (CPU, ingress)

Shapes: B texts, T tokens of the whole batch (packed, no padding), D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """B token sequences end to end, the form that travels to a replica.

    Attributes:
        tokens: int32 [T].
        lengths: int32 [B]; sums to T.
    """

    tokens: Tokens
    lengths: npt.NDArray[np.int32]

    @classmethod
    def pack(cls, sequences: Sequence[Tokens]) -> PackedTokens:
        """Join sequences; raises ValueError when there are none or one is empty."""
        lengths = np.fromiter((len(s) for s in sequences), dtype=np.int32, count=len(sequences))
        if len(lengths) == 0 or int(lengths.min()) < 1:
            raise ValueError(f"cannot pack sequences of the lengths {lengths.tolist()}")
        return cls(np.concatenate(sequences).astype(np.int32, copy=False), lengths)


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
