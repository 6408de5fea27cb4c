"""Frozen linear layers in 4 bits (NF4, QLoRA, Dettmers et al. 2023, arXiv 2305.14314).

A weight is cut into blocks of 64 numbers; of each, the largest magnitude is kept in float32 and the
numbers as the nearest of 16 levels, which are quantiles of a normal distribution. The products are
of unpacked weights, in forward and backward pass alike, so that gradients are those of what was
computed: the same on every device, in training and in evaluation. It saves memory and no time.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

BLOCK = 64
# appendix E of the paper
LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight as codes and scales.

    Args:
        weight: [O, D], floating point and finite.

    Returns:
        uint8 [ceil(O D / 64) * 32], two codes each, the first in the upper half; float32
        [ceil(O D / 64)], the largest magnitude of each block.

    Raises:
        ValueError: a number is not finite.
    """
    flat = weight.detach().float().reshape(-1)
    if not bool(torch.isfinite(flat).all()):
        raise ValueError("a weight that is quantised has numbers that are not finite")
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    levels = torch.tensor(LEVELS, device=flat.device)
    scaled = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    # the borders between levels are their middles; one at a border takes the lower
    codes = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2).to(torch.uint8).view(-1, 2)
    return codes[:, 0] * 16 + codes[:, 1], scales


class Workspace:
    """Memory that weights are unpacked in, one after the other.

    Taken anew for each product, it would lie now here, now there between the activations that stay
    for the backward pass, and leave holes that nothing as large fits in again.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.device, torch.dtype], torch.Tensor] = {}

    def take(self, name: str, count: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """So many numbers, whatever they are; those of one name are the same ones each time."""
        key = name, device, dtype
        found = self._kept.get(key)
        if found is None or len(found) < count:
            # the smaller one goes first
            self._kept.pop(key, None)
            found = self._kept[key] = torch.empty(count, device=device, dtype=dtype)
        return found[:count]


def dequantize(
    codes: torch.Tensor,
    scales: torch.Tensor,
    shape: torch.Size,
    dtype: torch.dtype,
    workspace: Workspace | None = None,
) -> torch.Tensor:
    """What `quantize` kept, as a weight of a shape and dtype.

    Args:
        codes: As `quantize` gives them.
        scales: Likewise.
        shape: Of the weight.
        dtype: Of the weight.
        workspace: The weight lies in it, and is gone when it is used again; None: it stays.
    """
    space, device = workspace or Workspace(), codes.device
    # both numbers of a code in one step
    index = space.take("index", len(codes), device, torch.int32).copy_(codes)
    numbers = space.take("numbers", 2 * len(codes), device, torch.float32)
    torch.index_select(_pairs(device), 0, index, out=numbers.view(-1, 2))
    numbers.view(-1, BLOCK).mul_(scales[:, None])
    if dtype is not torch.float32:
        numbers = space.take("weight", len(numbers), device, dtype).copy_(numbers)
    return numbers[: shape.numel()].view(shape)


@functools.cache
def _pairs(device: torch.device) -> torch.Tensor:
    """float32 [256, 2]: the levels that each code stands for."""
    levels = torch.tensor(LEVELS, device=device)
    return torch.cartesian_prod(levels, levels)


_SPACE = Workspace()
"""Of all layers: a product is computed, and its weight no longer needed, before the next."""


class _Product(torch.autograd.Function):
    """x W^T with a weight that is unpacked when it is needed, and never kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Nf4Linear) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.unpacked(x.dtype, _SPACE), layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient @ ctx.layer.unpacked(gradient.dtype, _SPACE), None


class Nf4Linear(torch.nn.Linear):
    """A frozen linear layer that holds its weight in 4.5 bits a number.

    It is a `torch.nn.Linear`, so that adapters are put on it as on any other.

    Args:
        layer: What is replaced; its bias is kept as it is.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        codes, scales = quantize(layer.weight)
        self.register_buffer("weight", codes)
        self.register_buffer("scales", scales)
        self.bias = layer.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)

    def unpacked(self, dtype: torch.dtype, workspace: Workspace | None = None) -> torch.Tensor:
        """The weight [O, D] that the layer computes with; see `dequantize`."""
        shape = torch.Size((self.out_features, self.in_features))
        scales: torch.Tensor = self.scales  # type: ignore[assignment]
        return dequantize(self.weight, scales, shape, dtype, workspace)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., D] to [..., O]."""
        made: torch.Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return made
