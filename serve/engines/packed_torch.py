"""The packed encoder in plain torch: any device and precision, and where nothing was compiled.

B texts, T tokens of a block, D width, H heads, R rows of width S (see rows.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ironcliw.encoder_folder import EncoderFolder
from serve.engines.architecture import Architecture
from serve.engines.linear import Linear, make_linear
from serve.engines.packed_weights import Affine, LayerWeights, open_weights
from serve.engines.pooling import Head
from serve.engines.protocol import PackedTokens
from serve.engines.rows import Block, RowGroup, plan_blocks, shape_size
from serve.engines.weights import LoadCounter

# measured from 256 to 4096 on the CPU: best from 2048 on, 5 % to 20 % above 512
CPU_BLOCK_TOKENS = 2048
ACCELERATOR_BLOCK_TOKENS = 16384


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Linear
    attention_out: Linear
    attention_norm: Affine
    up: Linear
    down: Linear
    norm: Affine


class TorchLayers:
    """All layers and the pooling.

    Args:
        folder: The model's folder, read and checked.
        architecture: What `bert_like` made of its config.
        device: Where to compute.
        dtype: Precision of the matrix products.
        head: What follows the layers, on the same device.
        counter: Told of the weights that are taken.
    """

    def __init__(
        self,
        folder: EncoderFolder,
        architecture: Architecture,
        device: torch.device,
        dtype: torch.dtype,
        head: Head,
        counter: LoadCounter | None,
    ) -> None:
        self._architecture = architecture
        self._device = device
        self._dtype = dtype
        self._head = head
        self._block = CPU_BLOCK_TOKENS if device.type == "cpu" else ACCELERATOR_BLOCK_TOKENS
        with open_weights(folder, architecture, dtype, device, counter) as weights:
            self._words = weights.words()
            self._places = weights.places().to(dtype)
            self._layers = [self._layer(x, architecture.activation) for x in weights.layers()]
            self._norm = weights.embedding_norm()
        self.vocabulary, self.positions = len(self._words), len(self._places)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all weights but the head's."""
        layers = self._layers
        linears = [m for x in layers for m in (x.qkv, x.attention_out, x.up, x.down)]
        norms = [self._norm, *(n for x in layers for n in (x.attention_norm, x.norm))]
        tensors = [self._words, self._places, *(t for n in norms for t in (n.weight, n.bias))]
        return sum(t.nbytes for t in tensors) + sum(m.resident_bytes for m in linears)

    def vectors(self, batch: PackedTokens) -> torch.Tensor:
        """Texts to vectors, float32 [B, dimensions] on the CPU, in order."""
        if len(batch.lengths) == 1:
            return self._embed_one(batch).cpu()
        result = torch.empty(len(batch.lengths), self._head.dimensions)
        for block in plan_blocks(batch.lengths.tolist(), self._block):
            result[torch.from_numpy(block.texts)] = self._embed_block(batch, block).cpu()
        return result

    def _embed_one(self, batch: PackedTokens) -> torch.Tensor:
        """The short way for one text: no plan, no mask, positions are a slice."""
        # a copy: torch warns of arrays that cannot be written, as those that Ray shares
        tokens = torch.from_numpy(batch.tokens.copy()).to(self._device)
        length = len(tokens)
        hidden = F.embedding(tokens, self._words) + self._places[:length]
        hidden = self._forward(self._padded(hidden), [(1, length, None)])
        return self._head.one(hidden[:length])

    def _embed_block(self, batch: PackedTokens, block: Block) -> torch.Tensor:
        device = self._device
        tokens = torch.from_numpy(batch.tokens[block.source]).to(device)
        positions = torch.from_numpy(block.positions).to(device)
        hidden = F.embedding(tokens, self._words).add_(F.embedding(positions, self._places))
        hidden = self._padded(hidden)
        hidden = self._forward(hidden, [self._masked(group) for group in block.groups])
        starts, lengths = (torch.from_numpy(a).to(device) for a in (block.starts, block.lengths))
        return self._head(hidden, starts, lengths)

    def _padded(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, D] with zero rows up to the next of few sizes, which attention leaves out."""
        missing = shape_size(len(hidden)) - len(hidden)
        if missing == 0 or self._device.type != "cpu":
            return hidden
        return F.pad(hidden, (0, 0, 0, missing))

    def _masked(self, group: RowGroup) -> tuple[int, int, torch.Tensor | None]:
        """R, S and the additive mask [R, 1, S, S] in the products' precision."""
        if group.segments is None:
            return group.rows, group.width, None
        segments = torch.from_numpy(group.segments).to(self._device)
        apart = segments[:, :, None] != segments[:, None, :]
        mask = torch.zeros(apart.shape, dtype=self._dtype, device=self._device)
        return group.rows, group.width, mask.masked_fill_(apart, -torch.inf)[:, None]

    def _forward(
        self, hidden: torch.Tensor, groups: list[tuple[int, int, torch.Tensor | None]]
    ) -> torch.Tensor:
        """Embedded tokens [T, D] through every layer."""
        hidden = self._normed(hidden, self._norm)
        for layer in self._layers:
            context = self._attention(layer.qkv(hidden), groups)
            hidden = self._normed(layer.attention_out.add(context, hidden), layer.attention_norm)
            hidden = self._normed(layer.down.add(layer.up(hidden), hidden), layer.norm)
        return hidden

    def _normed(self, hidden: torch.Tensor, norm: Affine) -> torch.Tensor:
        size = (self._architecture.hidden,)
        return F.layer_norm(hidden, size, norm.weight, norm.bias, self._architecture.norm_epsilon)

    def _attention(
        self, qkv: torch.Tensor, groups: list[tuple[int, int, torch.Tensor | None]]
    ) -> torch.Tensor:
        """[T, 3 D] to [T, D], each group of rows in one call."""
        heads, hidden = self._architecture.heads, self._architecture.hidden
        contexts: list[torch.Tensor] = []
        start = 0
        for rows, width, mask in groups:
            end = start + rows * width
            parts = qkv[start:end].view(rows, width, 3, heads, hidden // heads)
            q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            contexts.append(context.transpose(1, 2).reshape(rows * width, hidden))
            start = end
        if start < len(qkv):
            contexts.append(qkv.new_zeros(len(qkv) - start, hidden))
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)

    @staticmethod
    def _layer(taken: LayerWeights, activation: str) -> _Layer:
        return _Layer(
            qkv=make_linear(taken.qkv.weight, taken.qkv.bias),
            attention_out=make_linear(taken.attention_out.weight, taken.attention_out.bias),
            attention_norm=taken.attention_norm,
            up=make_linear(taken.up.weight, taken.up.bias, activation),
            down=make_linear(taken.down.weight, taken.down.bias),
            norm=taken.norm,
        )
