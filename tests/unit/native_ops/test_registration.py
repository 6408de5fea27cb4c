"""Every operator is whole: schema, reference, fake, and a compiled kernel.

And with its good arguments it keeps the rules that torch has for operators, and compiles. What
needs other arguments for that, such as a gradient, is tested beside the operator's values.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._library.simple_registry import singleton as registry
from torch.utils._pytree import tree_leaves, tree_map_only

from native_ops import binary
from native_ops.operators import NAMESPACE, REFERENCES
from tests.unit.native_ops.operator_arguments import OPERATORS as WITH_ARGUMENTS
from tests.unit.native_ops.operator_arguments import good, implementation

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


def copy_of(value: Any) -> Any:
    """Of a tensor or a list of them; anything else as it is."""
    return tree_map_only(torch.Tensor, torch.clone, value)


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


@pytest.mark.parametrize("operator", WITH_ARGUMENTS)
def test_it_keeps_torchs_rules(operator: str) -> None:
    call: Any = implementation("compiled", operator)
    torch.library.opcheck(call, tuple(good(operator).values()))


@pytest.mark.parametrize("operator", WITH_ARGUMENTS)
def test_it_compiles_without_a_graph_break(operator: str) -> None:
    call = implementation("compiled", operator)
    arguments = list(good(operator).values())

    def function(given: list[Any]) -> tuple[Any, list[Any]]:
        # copies: what an operator writes into is made in the graph, and seen in the result
        copies = [copy_of(value) for value in given]
        return call(*copies), copies

    torch.compiler.reset()  # else the operators together come to the limit of recompilations
    compiled: Any = torch.compile(function, fullgraph=True, backend="aot_eager")
    found, expected = tree_leaves(compiled(arguments)), tree_leaves(function(arguments))
    tensors = [
        (one, other) for one, other in zip(found, expected, strict=True) if torch.is_tensor(one)
    ]
    assert tensors
    assert all(torch.equal(one, other) for one, other in tensors)
