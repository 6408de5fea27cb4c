"""The packed encoder on compiled kernels: a batch is one operator for all layers, one for pooling.

Each thread takes a block of texts through all layers at once, so that threads meet once a batch and
not in every operator, and a block stays in its core's cache.
"""

from __future__ import annotations

import numpy as np
import torch

from native_ops import binary
from native_ops.encoder import encoder_forward, encoder_pack, qkv_number
from serve.engines.architecture import Architecture
from serve.engines.folder import EncoderFolder
from serve.engines.packed_weights import LayerWeights, open_weights
from serve.engines.pooling import Head
from serve.engines.protocol import PackedTokens
from serve.engines.weights import LoadCounter

STEP_TOKENS = 16384
"""Tokens of one call: bounds what the rows of a huge batch take."""

_LEVELS = {
    torch.float32: frozenset({"avx2", "avx512", "avx512_bf16", "amx"}),
    torch.bfloat16: frozenset({"avx512_bf16", "amx"}),
    torch.int8: frozenset(
        {"baseline", "avx2", "avx512", "avx512_bf16", "amx", "neon", "neon_i8mm"}
    ),
}


def native_suits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the compiled kernels are the fast way: where they were measured to be.

    Elsewhere PyTorch's own products are used: on aarch64 and macOS those of the vendors' libraries,
    and for bf16 without bf16 instructions nothing is fast. int8 is there on every level.
    """
    return device.type == "cpu" and binary.state().level in _LEVELS.get(dtype, frozenset())


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
        self._architecture = architecture
        self._number = str(dtype).removeprefix("torch.")
        self._head = head
        self._weights: list[torch.Tensor] = []
        cpu = torch.device("cpu")
        with open_weights(folder, architecture, torch.float32, cpu, counter) as weights:
            self._words = weights.words(torch.bfloat16 if dtype == torch.int8 else dtype)
            self._places = weights.places()
            norm = weights.embedding_norm()
            self._vectors = [norm.weight, norm.bias]
            self._inner = architecture.hidden
            for layer in weights.layers():
                self._take(layer)
        self.vocabulary, self.positions = len(self._words), len(self._places)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all weights but the head's."""
        held = [self._words, self._places, *self._weights, *self._vectors]
        return sum(tensor.nbytes for tensor in held)

    def vectors(self, batch: PackedTokens) -> torch.Tensor:
        """Texts to vectors, float32 [B, dimensions], in order."""
        ends = np.cumsum(batch.lengths, dtype=np.int64)
        if ends[-1] <= STEP_TOKENS:
            return self._step(batch.tokens, ends)
        parts: list[torch.Tensor] = []
        first = done = 0
        while first < len(ends):
            fitting = int(np.searchsorted(ends, done + STEP_TOKENS, side="right"))
            last = max(fitting, first + 1)
            end = int(ends[last - 1])
            parts.append(self._step(batch.tokens[done:end], ends[first:last] - done))
            first, done = last, end
        return torch.cat(parts)

    def _step(
        self,
        tokens: np.ndarray[tuple[int], np.dtype[np.int32]],
        ends: np.ndarray[tuple[int], np.dtype[np.int64]],
    ) -> torch.Tensor:
        starts = torch.zeros(len(ends) + 1, dtype=torch.int32)
        starts[1:] = torch.from_numpy(ends)
        shape = self._architecture
        hidden = encoder_forward(
            # a copy: torch warns of arrays that cannot be written, as those that Ray shares
            torch.from_numpy(tokens.astype(np.int32)),
            starts,
            self._words,
            self._places,
            self._weights,
            self._vectors,
            shape.heads,
            self._inner,
            shape.norm_epsilon,
            shape.activation,
            self._number,
        )
        return self._head.packed(hidden, starts)

    def _take(self, layer: LayerWeights) -> None:
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
