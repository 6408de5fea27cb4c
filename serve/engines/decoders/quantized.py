"""Linear layers that keep their weight in 8 or 4 bits.

T tokens, K inputs, N outputs; G numbers share a scale. For few tokens torch's own CPU kernels read
the packed weight directly; for many, and on other devices, it is unpacked piece by piece into the
activations' precision and multiplied there. Both use the same numbers.
"""

from __future__ import annotations

import functools
import logging
from typing import Literal, Protocol

import torch
from torch.nn import functional

from ironcliw.errors import UnsupportedError
from serve.engines.linear import Linear

_GROUP = 32
_ROWS = 64
"""Rows that torch packs together, at most: N is padded to a multiple."""

_PIECE_NUMBERS = 1 << 20
"""Weights unpacked at a time: 2 MB in bf16, which stay in the core's cache until multiplied."""

logger = logging.getLogger(__name__)


def make_quantized_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, bits: Literal[4, 8]
) -> Linear:
    """y = x W^T + b with W rounded to 8 bits (a scale a row) or 4 (scale and zero for 32 numbers).

    Args:
        weight: [N, K], floating point; the activations will have its precision and device.
        bias: [N] or None.
        bits: 4 needs K to be a multiple of 32; other layers get 8 bits, and the log says so.

    Raises:
        UnsupportedError: the weight is not in bf16, fp16 or fp32.
    """
    if weight.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise UnsupportedError(
            f"a weight of {weight.dtype} cannot be quantised; bfloat16, float16 and float32 can"
        )
    if bits == 4 and weight.shape[1] % _GROUP:
        logger.info("a layer of %d inputs, not a multiple of 32, gets 8 bits", weight.shape[1])
        bits = 8
    packed = _Rows8(weight) if bits == 8 else _Groups4(weight)
    return QuantizedLinear(packed, bias)


class _Packed(Protocol):
    """A quantised weight."""

    kernel_tokens: int
    """Up to here torch's kernel wins: its time grows with each token, that of unpacking hardly."""
    nbytes: int

    def kernel(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] to [T, N] straight from the packed form."""
        ...

    def unpacked(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] to [T, N] through the weight in the activations' precision, piece by piece."""
        ...


class QuantizedLinear:
    """A linear layer over a quantised weight, without activation."""

    def __init__(self, weight: _Packed, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias
        self.resident_bytes = weight.nbytes + (0 if bias is None else bias.nbytes)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[T, K] to [T, N]."""
        weight = self._weight
        few = len(x) <= weight.kernel_tokens
        y = weight.kernel(x) if few else weight.unpacked(x)
        return y if self._bias is None else y.add_(self._bias)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """[T, K] and [T, N] to [T, N]: the output plus the residual, which is overwritten."""
        return residual.add_(self(x))


class _Rows8:
    """int8 with a scale for each row."""

    def __init__(self, weight: torch.Tensor) -> None:
        # the scale is rounded first, so that the numbers are the best ones for the scale in use
        largest = weight.abs().amax(1).float()
        self._scales = (largest / 127).clamp_min(_smallest(weight.dtype)).to(weight.dtype)
        self._numbers = _round(weight, self._scales.float()[:, None], -127, 127).to(torch.int8)
        # torch's kernel reads 16 inputs at a time and does not check: others give wrong numbers
        fits = weight.device.type == "cpu" and weight.shape[1] % 16 == 0
        self.kernel_tokens = 16 if fits else 0
        self.nbytes = self._numbers.nbytes + self._scales.nbytes

    def kernel(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten._weight_int8pack_mm(
            x.contiguous(), self._numbers, self._scales
        )
        return y

    def unpacked(self, x: torch.Tensor) -> torch.Tensor:
        n, k = self._numbers.shape
        y = x.new_empty(len(x), n)
        step = max(1, _PIECE_NUMBERS // k)
        for start in range(0, n, step):
            rows = self._numbers[start : start + step].to(x.dtype)
            y[:, start : start + step] = functional.linear(x, rows)
        return y.mul_(self._scales)


class _Groups4:
    """4 bits with a scale and a zero for each 32 numbers of a row: w = (q - 8) scale + zero."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._rows = weight.shape[0]
        weight = functional.pad(weight, (0, 0, 0, -self._rows % _ROWS))
        n, k = weight.shape
        groups = weight.float().view(n, k // _GROUP, _GROUP)
        low, high = groups.amin(2), groups.amax(2)
        scales = ((high - low) / 15).clamp_min(_smallest(weight.dtype)).to(weight.dtype)
        zeros = (low + 8 * scales.float()).to(weight.dtype)
        shifted = groups - zeros.float()[..., None]
        numbers = _round(shifted, scales.float()[..., None], -8, 7).add_(8).to(torch.int32)
        # torch's layout where torch has a kernel for it, else the same with the width of 64
        on_cpu = weight.device.type == "cpu"
        self.kernel_tokens = 64 if on_cpu else 0
        self._block = _kernel_block() if on_cpu else _ROWS
        pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu if on_cpu else _pack
        self._packed: torch.Tensor = pack(numbers.view(n, k), 1)
        self._scales_zeros = torch.stack((scales.t(), zeros.t()), 2).contiguous()  # [K/G, N, 2]
        self.nbytes = self._packed.nbytes + self._scales_zeros.nbytes

    def kernel(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.contiguous(), self._packed, _GROUP, self._scales_zeros
        )
        return y[:, : self._rows]

    def unpacked(self, x: torch.Tensor) -> torch.Tensor:
        if self._block is None:
            return self.kernel(x)
        n, k = self._packed.shape[0], x.shape[1]
        y = x.new_empty(len(x), n // self._block, self._block)
        step = max(1, _PIECE_NUMBERS // k // self._block)
        for start in range(0, n // self._block, step):
            blocks = self._blocks(start * self._block, step * self._block, self._block, x.dtype)
            y[:, start : start + step] = torch.matmul(x, blocks).transpose(0, 1)
        return y.view(len(x), n)[:, : self._rows]

    def _blocks(self, start: int, rows: int, block: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows [start, start + rows) of the weight, as [rows / block, K, block]."""
        numbers = _unpack(self._packed[start : start + rows], block)
        count, k, _ = numbers.shape
        values = numbers.to(dtype).view(count, k // _GROUP, _GROUP, block)
        scales, zeros = (
            part.reshape(k // _GROUP, count, 1, block).transpose(0, 1).contiguous()
            for part in self._scales_zeros[:, start : start + rows].unbind(2)
        )
        # addcmul rounds once, as the kernel does
        return torch.addcmul(zeros, values, scales, out=values).view(count, k, block)


def _smallest(dtype: torch.dtype) -> float:
    """A scale for rows of zeros, and of numbers so small that their scale would be zero."""
    return torch.finfo(dtype).tiny


def _round(values: torch.Tensor, scales: torch.Tensor, low: int, high: int) -> torch.Tensor:
    return (values.float() / scales).round_().clamp_(low, high)


def _pack(numbers: torch.Tensor, _: int) -> torch.Tensor:
    """[N, K] of 0 to 15 to [N, K / 2], as torch packs them where a vector holds 64 numbers."""
    n, k = numbers.shape
    blocks = numbers.view(n // _ROWS, 2, _ROWS // 2, k)
    pairs = blocks[:, 0] | blocks[:, 1] << 4
    return pairs.transpose(1, 2).to(torch.uint8).reshape(n, k // 2)


def _unpack(packed: torch.Tensor, block: int) -> torch.Tensor:
    """[N, K / 2] to the numbers less 8, int8 [N / block, K, block]."""
    n, half = packed.shape
    pairs = packed.view(n // block, 2 * half, block // 2)
    return torch.cat((pairs & 15, pairs >> 4), 2).view(torch.int8).sub_(8)


@functools.cache
def _kernel_block() -> int | None:
    """How many rows torch packs together on this processor; None where its layout is another.

    64 with AVX-512, 32 with AVX2 (weight_to_int4pack_kernel in aten/src/ATen/native/cpu); found by
    packing a known matrix, so that another release or processor is noticed, not misread.
    """
    numbers = (torch.arange(_ROWS * _GROUP).view(_ROWS, _GROUP) * 7919 >> 3) % 16
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers.to(torch.int32), 1)
    for block in (64, 32):
        rows = _unpack(packed, block).transpose(1, 2).reshape(_ROWS, _GROUP)
        if torch.equal(rows.long() + 8, numbers):
            return block
    logger.warning("torch packs 4-bit weights in an unknown layout; long prompts will be slower")
    return None
