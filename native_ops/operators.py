"""How an operator of `torch.ops.ironcliw` is made: schema, reference, fake; C++ comes on top.

The schema and a reference in plain torch are registered here for every device. Where the compiled
binary is loaded, its kernels take over for CPU tensors; anything else (CUDA, MPS, meta) keeps the
reference, or the fake kernel under tracing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from native_ops import binary

NAMESPACE = "ironcliw"


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
        reference: The same in plain torch.
        fake: Gives empty results of the right shapes.
    """
    qualified = f"{NAMESPACE}::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "CompositeExplicitAutograd")(reference)
    torch.library.register_fake(qualified)(fake)
    binary.load()
    operator: Callable[..., Any] = getattr(getattr(torch.ops, NAMESPACE), name).default
    return operator
