"""From token vectors to one vector a text: pooling, dense layers, normalisation, always in fp32.

T tokens of a block, B texts, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F

from ironcliw import encoder_folder as modules
from ironcliw.encoder_folder import HeadModule
from ironcliw.errors import ModelLoadError
from ironcliw.safetensors_files import StoredTensor
from native_ops.encoder import pool_texts
from serve.engines.weights import LoadCounter, Weights

Step = Callable[[torch.Tensor], torch.Tensor]

_NORM_EPSILON = 1e-5  # torch.nn.LayerNorm's default, which sentence-transformers keeps


class Head:
    """The modules behind a transformer.

    Args:
        listed: The modules as the folder lists them, pooling first.
        hidden: D of a token's vector.
        device: Where token vectors are.
        counter: Told of the weights that are taken.
    """

    def __init__(
        self,
        listed: Sequence[HeadModule],
        hidden: int,
        device: torch.device,
        counter: LoadCounter | None = None,
    ) -> None:
        self._counter = counter
        self._modes = _modes(listed)
        self._tensors: list[torch.Tensor] = []
        self._steps: list[Step] = []
        self.dimensions = hidden * len(self._modes)
        self._device = device
        for module in listed[1:]:
            self._steps.append(self._step(module))

    @property
    def resident_bytes(self) -> int:
        """Bytes of the dense and norm layers."""
        return sum(tensor.nbytes for tensor in self._tensors)

    def __call__(
        self, tokens: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Token vectors [T, D] to vectors fp32 [B, dimensions].

        Args:
            tokens: Any precision; texts may stand in any places.
            starts: int64 [B], each text's first token.
            lengths: int64 [B], its number of tokens.
        """
        pooled = torch.cat([_pool(m, tokens, starts, lengths) for m in self._modes], dim=1)
        return self._finish(pooled)

    def packed(self, tokens: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """The same for texts that fill [T, D], by the compiled kernels where they are.

        Args:
            tokens: float32 or bfloat16.
            cu_seqlens: int32 [B + 1], where texts begin, and T.
        """
        # by far the most models: pooling and normalisation are one pass
        fused = len(self._modes) == 1 and self._steps == [_normalize]
        pooled = [pool_texts(tokens, cu_seqlens, mode, fused) for mode in self._modes]
        joined = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
        return joined if fused else self._finish(joined)

    def one(self, tokens: torch.Tensor) -> torch.Tensor:
        """The same for a single text, which is all of [T, D]: fp32 [1, dimensions]."""
        if self._modes == ("mean",):
            return self._finish(tokens.mean(dim=0, keepdim=True, dtype=torch.float32))
        zero = torch.zeros(1, dtype=torch.int64, device=tokens.device)
        return self(tokens, zero, zero + len(tokens))

    def _finish(self, vectors: torch.Tensor) -> torch.Tensor:
        for step in self._steps:
            vectors = step(vectors)
        return vectors

    def _step(self, module: HeadModule) -> Step:
        if isinstance(module, modules.Normalize):
            return _normalize
        if isinstance(module, modules.Dense):
            return self._dense(module)
        if isinstance(module, modules.LayerNorm):
            return self._layer_norm(module)
        raise ModelLoadError("a second pooling module is not supported; correct modules.json")

    def _open(self, tensors: Mapping[str, StoredTensor], anchor: str) -> Weights:
        return Weights(tensors, anchor, torch.float32, self._device, self._counter)

    def _dense(self, module: modules.Dense) -> Step:
        with self._open(module.tensors, "linear.weight") as weights:
            weight = weights.take("linear.weight", -1, self.dimensions)
            bias = None
            if "linear.bias" in module.tensors:
                bias = weights.take("linear.bias", len(weight))
        self._tensors += [weight] if bias is None else [weight, bias]
        self.dimensions = len(weight)
        activation = getattr(torch.nn, module.activation)()
        return lambda vectors: activation(F.linear(vectors, weight, bias))

    def _layer_norm(self, module: modules.LayerNorm) -> Step:
        size = self.dimensions
        with self._open(module.tensors, "norm.weight") as weights:
            weight, bias = weights.take("norm.weight", size), weights.take("norm.bias", size)
        self._tensors += [weight, bias]
        return lambda vectors: F.layer_norm(vectors, (size,), weight, bias, _NORM_EPSILON)


def _modes(listed: Sequence[HeadModule]) -> tuple[str, ...]:
    first = listed[0] if listed else None
    if not isinstance(first, modules.Pooling):
        raise ModelLoadError("the model has no pooling module; correct modules.json")
    return first.modes


def _normalize(vectors: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors, dim=1)


def _pool(
    mode: str, tokens: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """One mode over ragged texts, as sentence_transformers' Pooling._forward_flattened."""
    if mode == "cls":
        return tokens[starts].float()
    if mode == "lasttoken":
        return tokens[starts + lengths - 1].float()
    text, place = _owners(starts, lengths)
    inside = tokens[starts[text] + place].float()
    if mode == "max":
        lowest = inside.new_full((len(starts), inside.shape[1]), -torch.inf)
        return lowest.scatter_reduce(0, text[:, None].expand_as(inside), inside, reduce="amax")
    if mode == "weightedmean":
        inside = inside * (place + 1).to(inside.dtype)[:, None]
    sums = inside.new_zeros((len(starts), inside.shape[1])).index_add_(0, text, inside)
    count = lengths.to(inside.dtype)[:, None]
    return sums / _DIVISORS[mode](count)


_DIVISORS: Mapping[str, Step] = {
    "mean": lambda count: count,
    "mean_sqrt_len_tokens": torch.sqrt,
    "weightedmean": lambda count: count * (count + 1) / 2,
}


def _owners(starts: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every real token: which text it belongs to, and its place there."""
    text = torch.repeat_interleave(torch.arange(len(starts), device=starts.device), lengths)
    first = torch.cumsum(lengths, 0) - lengths
    return text, torch.arange(len(text), device=starts.device) - first[text]
