"""The packed form of an encoder's weights; csrc/kernels/encoder.h describes it.

N outputs, K inputs of a linear layer. Numbers are `float32`, `bfloat16` or `int8`, the last with a
scale for each output.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from native_ops.checks import check_tensor, need
from native_ops.encoder_checks import check_inputs, check_packed

PANEL, GROUP = 32, 16
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
# neighbouring inputs of an output that stand together, and what inputs are filled up to
_TOGETHER = {"float32": 1, "bfloat16": 2, "int8": 4}
_STEP = {"float32": 1, "bfloat16": 32, "int8": 64}
_SCALE_BYTES = 4 * PANEL


def filled(count: int, step: int) -> int:
    """`count`, or the next multiple of `step`."""
    return -(-count // step) * step


def qkv_number(number: str) -> str:
    """What a layer's joined query, key and value weight is kept as where the others are `number`.

    With int8 it is bfloat16: its input has a few columns far larger than the others. Adapters are
    kept so too.
    """
    return "bfloat16" if number == "int8" else number


def packed_bytes(number: str, outputs: int, inputs: int) -> int:
    """Bytes of a packed weight [N, K]."""
    check_number("encoder_pack", number)
    panel = PANEL * filled(inputs, _STEP[number]) * _DTYPES[number].itemsize
    if number == "int8":
        panel += _SCALE_BYTES
    return filled(outputs, PANEL) // PANEL * panel


def pack(weight: torch.Tensor, number: str) -> torch.Tensor:
    """float32 [N, K] to uint8: rounded, filled with zeros, in panels of 32 outputs."""
    check_number("encoder_pack", number)
    check_tensor("encoder_pack", "weight", weight, torch.float32, (None, None))
    rule = f"weight must not be empty; its shape is {list(weight.shape)}"
    need(weight.numel() > 0, "encoder_pack", rule)
    check_inputs("encoder_pack", "weight", number, weight)
    outputs, inputs = weight.shape
    columns = filled(inputs, _STEP[number])
    whole = F.pad(weight, (0, columns - inputs, 0, filled(outputs, PANEL) - outputs))
    if number != "int8":
        return _panels(whole.to(_DTYPES[number]), number).view(-1).view(torch.uint8)
    largest = whole.abs().amax(1)
    finite = largest.isfinite()
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    # int8 holds no NaN and no infinity, so the row's scale does
    scale = torch.where(finite, scale, torch.nan)
    # filled rows are never used; the compiled packing leaves their scale 0
    scale = torch.where(torch.arange(len(scale), device=scale.device) < outputs, scale, 0)
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    values = torch.where(finite[:, None], whole / divisor[:, None], 0)
    values = values.round().clamp(-127, 127).to(torch.int8)
    parts = (_panels(values, number).view(torch.uint8), scale.view(torch.uint8))
    return torch.cat([part.reshape(len(scale) // PANEL, -1) for part in parts], 1).view(-1)


def unpack(packed: torch.Tensor, number: str, outputs: int, inputs: int) -> torch.Tensor:
    """uint8 back to float32 [N, K], as rounded."""
    check_number("encoder_linear", number)
    expected = packed_bytes(number, outputs, inputs)
    check_packed("encoder_linear", "packed", packed, expected)
    columns, together = filled(inputs, _STEP[number]), _TOGETHER[number]
    if number == "int8":
        panels = packed.view(-1, expected // (filled(outputs, PANEL) // PANEL))
        scale = panels[:, -_SCALE_BYTES:].contiguous().view(torch.float32).view(-1)
        packed = panels[:, :-_SCALE_BYTES].contiguous().view(-1)
    values = packed.view(_DTYPES[number])
    if number == "float32":
        whole = values.view(-1, inputs, PANEL).transpose(1, 2).flatten(0, 1)
    else:
        groups = values.view(-1, 2, columns // together, GROUP, together)
        whole = groups.transpose(2, 3).reshape(-1, columns)
    rounded = whole[:outputs, :inputs].float()
    return rounded * scale[:outputs, None] if number == "int8" else rounded


def check_number(operator: str, number: str) -> None:
    """Raise RuntimeError for a number that weights cannot be kept as."""
    need(
        number in _DTYPES,
        operator,
        f"number must be float32, bfloat16 or int8; it is {number}",
    )


def _panels(whole: torch.Tensor, number: str) -> torch.Tensor:
    columns, together = whole.shape[1], _TOGETHER[number]
    if number == "float32":
        return whole.view(-1, PANEL, columns).transpose(1, 2).contiguous()
    groups = whole.view(-1, 2, GROUP, columns // together, together)
    return groups.transpose(2, 3).contiguous()
