"""Every operator is whole: schema, reference, fake, and a compiled kernel."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from torch._library.simple_registry import singleton as registry

import native_ops
from native_ops import binary
from native_ops.operators import NAMESPACE

REFERENCE_ONLY = frozenset({"token_logprobs", "token_logprobs_weight_gradient"})
"""Matrix products in torch around operators that are compiled (see native_ops/loss_head.py)."""

has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key


def operators() -> list[str]:
    """Names of all operators, once every module of `native_ops` is imported."""
    for module in pkgutil.walk_packages(native_ops.__path__, "native_ops."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name for name in names if name.startswith(f"{NAMESPACE}::"))


OPERATORS = operators()


def test_there_are_operators() -> None:
    assert {"ironcliw::add_layer_norm", "ironcliw::rms_norm"} <= set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_schema_reference_and_fake(name: str) -> None:
    packet = getattr(torch.ops.ironcliw, name.partition("::")[2].partition(".")[0])
    schema = packet.default._schema
    # what gives nothing back must say that it writes into its arguments
    assert schema.arguments and (schema.returns or schema.is_mutable), f"{name}: {schema}"
    assert has_kernel(name, "CompositeExplicitAutograd"), f"{name} has no reference"
    assert registry.find(name).fake_impl.kernel is not None, f"{name} has no fake"


@pytest.mark.parametrize("name", OPERATORS)
def test_the_binary_implements_it(name: str) -> None:
    assert binary.load() is not None, binary.state().reason
    compiled = has_kernel(name, "CPU")
    wanted = name.partition("::")[2] not in REFERENCE_ONLY
    assert compiled == wanted, f"{name}: a file in csrc/bind and the Python side disagree"
