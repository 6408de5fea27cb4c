"""The BERT family without padding: the texts of a batch stand end to end through every layer.

B texts, T tokens of a block, D width, H heads, R rows of width S (see rows.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ironcliw.errors import UnavailableError
from serve.engines.architecture import Architecture
from serve.engines.checks import InputLimits
from serve.engines.folder import EncoderFolder
from serve.engines.linear import Linear, make_linear
from serve.engines.pooling import Head
from serve.engines.protocol import PackedTokens, Vectors
from serve.engines.rows import Block, RowGroup, plan_blocks, shape_size
from serve.engines.threads import threads_for
from serve.engines.weights import LoadCounter, Weights

# measured from 256 to 4096 on the CPU: best from 2048 on, 5 % to 20 % above 512
CPU_BLOCK_TOKENS = 2048
ACCELERATOR_BLOCK_TOKENS = 16384


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Linear
    attention_out: Linear
    attention_norm: _Norm
    up: Linear
    down: Linear
    norm: _Norm


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
        self._architecture = architecture
        self._device = device
        self._dtype = dtype
        self._block = CPU_BLOCK_TOKENS if device.type == "cpu" else ACCELERATOR_BLOCK_TOKENS
        self._layers: list[_Layer] = []
        with torch.inference_mode():
            self._words, self._places, self._norm = self._load(folder, counter)
            self._head = Head(folder.head, architecture.hidden, device, counter)
        self._limits = InputLimits(len(self._words), min(folder.max_tokens, len(self._places)))
        self._closed = False

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
        tensors = [self._words, self._places, self._norm.weight, self._norm.bias]
        layers = self._layers
        linears = [m for x in layers for m in (x.qkv, x.attention_out, x.up, x.down)]
        norms = [n for x in layers for n in (x.attention_norm, x.norm)]
        tensors += [t for n in norms for t in (n.weight, n.bias)]
        held = sum(t.nbytes for t in tensors) + sum(m.resident_bytes for m in linears)
        return held + self._head.resident_bytes

    def embed(self, batch: PackedTokens) -> Vectors:
        if self._closed:
            raise UnavailableError("this engine was closed; load the model again")
        self._limits.check(batch)
        with torch.inference_mode(), threads_for(self._device, len(batch.tokens)):
            if len(batch.lengths) == 1:
                return self._embed_one(batch)
            result = torch.empty(len(batch.lengths), self.dimensions)
            for block in plan_blocks(batch.lengths.tolist(), self._block):
                result[torch.from_numpy(block.texts)] = self._embed_block(batch, block).cpu()
            return result.numpy()

    def close(self) -> None:
        self._closed = True
        self._layers = []
        empty = torch.empty(0)
        self._words = self._places = empty
        self._norm = _Norm(empty, empty)

    def _embed_one(self, batch: PackedTokens) -> Vectors:
        """The short way for one text: no plan, no mask, positions are a slice."""
        # a copy: torch warns of arrays that cannot be written, as those that Ray shares
        tokens = torch.from_numpy(batch.tokens.copy()).to(self._device)
        length = len(tokens)
        hidden = F.embedding(tokens, self._words) + self._places[:length]
        hidden = self._forward(self._padded(hidden), [(1, length, None)])
        return self._head.one(hidden[:length]).cpu().numpy()

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

    def _normed(self, hidden: torch.Tensor, norm: _Norm) -> torch.Tensor:
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

    def _load(
        self, folder: EncoderFolder, counter: LoadCounter | None
    ) -> tuple[torch.Tensor, torch.Tensor, _Norm]:
        """Take every layer; returns word vectors, position vectors and their norm."""
        anchor = "embeddings.word_embeddings.weight"
        with Weights(folder.tensors, anchor, self._dtype, self._device, counter) as weights:
            width = self._architecture.hidden
            words = weights.take(anchor, -1, width)
            places = self._position_table(weights)
            for index in range(self._architecture.layers):
                self._layers.append(self._take_layer(weights, index))
            return words, places, self._take_norm(weights, "embeddings.LayerNorm")

    def _position_table(self, weights: Weights) -> torch.Tensor:
        """Position vectors with the token type's vector added once and for all."""
        width = self._architecture.hidden
        table = weights.take(
            "embeddings.position_embeddings.weight", -1, width, dtype=torch.float32
        )
        table = table[self._architecture.first_position :]
        if self._architecture.has_token_types:
            types = "embeddings.token_type_embeddings.weight"
            table = table + weights.take(types, -1, width, dtype=torch.float32)[0]
        return table.to(self._dtype).clone()

    def _take_norm(self, weights: Weights, name: str) -> _Norm:
        size = self._architecture.hidden
        return _Norm(weights.take(f"{name}.weight", size), weights.take(f"{name}.bias", size))

    def _take_layer(self, weights: Weights, index: int) -> _Layer:
        names = self._architecture.layer(index)
        width = self._architecture.hidden
        joined = (names.query, names.key, names.value)
        qkv = [torch.cat([weights.take(f"{n}.weight", width, width) for n in joined])]
        qkv.append(torch.cat([weights.take(f"{n}.bias", width) for n in joined]))
        up = weights.take(f"{names.up}.weight", -1, width)
        return _Layer(
            qkv=make_linear(qkv[0], qkv[1]),
            attention_out=make_linear(
                weights.take(f"{names.attention_out}.weight", width, width),
                weights.take(f"{names.attention_out}.bias", width),
            ),
            attention_norm=self._take_norm(weights, names.attention_norm),
            up=make_linear(
                up, weights.take(f"{names.up}.bias", len(up)), self._architecture.activation
            ),
            down=make_linear(
                weights.take(f"{names.down}.weight", width, len(up)),
                weights.take(f"{names.down}.bias", width),
            ),
            norm=self._take_norm(weights, names.norm),
        )
