"""What references check, in the words of the compiled operators (csrc/bind/bind.h).

Every message names the operator, the argument and the rule, and says what was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import torch


def need(condition: bool, operator: str, rule: str) -> None:
    """Raise RuntimeError naming the operator and the rule where the condition is false."""
    if not condition:
        raise RuntimeError(f"ironcliw::{operator}: {rule}")


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def check_dtype(operator: str, name: str, t: torch.Tensor, *wanted: torch.dtype) -> None:
    """One of these types."""
    if t.dtype in wanted:  # a text is made only where it is needed: some operators take 50 us
        return
    names = [dtype_name(dtype) for dtype in wanted]
    rule = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    need(False, operator, f"{name} must be {rule}; it is {dtype_name(t.dtype)}")


def check_dim(operator: str, name: str, t: torch.Tensor, wanted: int) -> None:
    """As many dimensions."""
    if t.dim() != wanted:
        shape = [*t.shape]
        need(False, operator, f"{name} must have {wanted} dimensions; its shape is {shape}")


def check_size(operator: str, name: str, t: torch.Tensor, dim: int, wanted: int) -> None:
    """As many elements along a dimension."""
    if t.shape[dim] != wanted:
        shape = [*t.shape]
        need(False, operator, f"{name} must have {wanted} in dimension {dim}; its shape is {shape}")


def check_tensor(
    operator: str,
    name: str,
    t: torch.Tensor,
    dtype: torch.dtype | Sequence[torch.dtype],
    shape: Sequence[int | None],
) -> None:
    """Type, dimensions and sizes; None where any size will do."""
    check_dtype(operator, name, t, *((dtype,) if isinstance(dtype, torch.dtype) else dtype))
    check_dim(operator, name, t, len(shape))
    for dim, size in enumerate(shape):
        if size is not None:
            check_size(operator, name, t, dim, size)


def check_contiguous(operator: str, name: str, t: torch.Tensor) -> None:
    """Side by side in memory: what is written in place, or read where it lies."""
    need(t.is_contiguous(), operator, f"{name} must be contiguous; its shape is {[*t.shape]}")


def check_ids(operator: str, name: str, ids: torch.Tensor, limit: int) -> None:
    """Each from 0 to below the limit."""
    outside = ((ids < 0) | (ids >= limit)).nonzero()
    if len(outside):
        at = int(outside[0])
        rule = f"{name} must be from 0 to {limit - 1}; element {at} is {int(ids[at])}"
        need(False, operator, rule)


def on_one_device(
    operator: str, names: Sequence[str], function: Callable[..., Any]
) -> Callable[..., Any]:
    """The function, which refuses tensors that lie on several devices.

    Args:
        operator: Its name.
        names: Of its arguments.
        function: A reference or a fake kernel. The compiled kernels need no such check: they are
            chosen only where every tensor lies on the CPU.
    """

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        devices = {t.device for value in (*args, *kwargs.values()) for t in _tensors(value)}
        if len(devices) > 1:
            _refuse_devices(operator, {**dict(zip(names, args, strict=False)), **kwargs})
        return function(*args, **kwargs)

    return checked


def _tensors(value: Any) -> Sequence[torch.Tensor]:
    """Of an argument: a tensor, a list of them, or something else."""
    if isinstance(value, torch.Tensor):
        return (value,)
    if isinstance(value, list | tuple):
        return [t for t in value if isinstance(t, torch.Tensor)]
    return ()


def _refuse_devices(operator: str, arguments: Mapping[str, Any]) -> None:
    found = [
        (f"{name}[{at}]" if isinstance(value, list | tuple) else name, t.device)
        for name, value in arguments.items()
        for at, t in enumerate(_tensors(value))
    ]
    first, wanted = found[0]
    for name, device in found:
        rule = f"{name} must be on {wanted} as {first}; it is on {device}"
        need(device == wanted, operator, rule)
