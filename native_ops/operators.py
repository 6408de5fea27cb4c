"""How an operator of `torch.ops.ironcliw` is made: schema, reference, fake; C++ comes on top.

The schema and a reference in plain torch are registered here for every device. Where the compiled
binary is loaded, its kernels take over for CPU tensors; anything else (CUDA, MPS) keeps the
reference, or the fake kernel under tracing and on the meta device. Tensors on several devices are
an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from native_ops import binary
from native_ops.checks import on_one_device

NAMESPACE = "ironcliw"

REFERENCES: dict[str, Callable[..., Any]] = {}
"""The references by the names of their operators, as torch calls them."""


def define(
    name: str,
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
) -> Callable[..., Any]:
    """Register an operator and give its callable, `torch.ops.ironcliw.NAME`.

    Args:
        name: Of the operator.
        schema: Arguments and results, `(Tensor x, float eps) -> Tensor`.
        reference: The same in plain torch, with the compiled kernel's checks.
        fake: Gives empty results of the right shapes.
    """
    qualified = f"{NAMESPACE}::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    operator: Callable[..., Any] = getattr(getattr(torch.ops, NAMESPACE), name).default
    names = [argument.name for argument in torch._C.parse_schema(f"{qualified}{schema}").arguments]
    REFERENCES[name] = on_one_device(name, names, reference)
    torch.library.impl(qualified, "CompositeExplicitAutograd")(REFERENCES[name])
    torch.library.register_fake(qualified)(on_one_device(name, names, fake))
    binary.load()
    return operator
