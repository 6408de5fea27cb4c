"""Every operator is whole: schema, reference, fake, and a compiled kernel."""

from __future__ import annotations

import pytest
import torch
from torch._library.simple_registry import singleton as registry

from native_ops import binary
from native_ops.operators import NAMESPACE, REFERENCES
from tests.unit.native_ops.operator_arguments import OPERATORS as WITH_ARGUMENTS

REFERENCE_ONLY = frozenset(
    {
        "lora_linear",
        "lora_linear_backward",
        "token_logprobs",
        "token_logprobs_weight_gradient",
    }
)
"""Matrix products in torch, alone or around compiled operators (native_ops/loss_head.py)."""

has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key


def operators() -> list[str]:
    """Names of all operators; every module of `native_ops` was imported for the arguments."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name for name in names if name.startswith(f"{NAMESPACE}::"))


OPERATORS = operators()


def test_there_are_operators() -> None:
    assert {"ironcliw::add_layer_norm", "ironcliw::rms_norm"} <= set(OPERATORS)


def test_the_contract_knows_every_operator() -> None:
    names = {name.partition("::")[2] for name in OPERATORS}
    assert set(WITH_ARGUMENTS) == names == set(REFERENCES)


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
