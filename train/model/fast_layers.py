"""Compiled forward and backward passes for what decoders have in common, on the processor.

RMSNorm, the gated feed-forward layer, rotary attention over packed rows, and the additions of the
residual stream are of one form in Llama, Mistral, Qwen and others. A module that looks like one of
them gets a forward pass of `layer_calls`, if that gives the module's own result for an example; any
other keeps its own code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ironcliw.errors import UnsupportedError
from native_ops import binary
from train.model.layer_calls import AttentionCall, GatedCall, LayerCall, NormCall
from train.model.packed_attention import STARTS

_EXAMPLE_STARTS = [0, 2, 5]
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Of a result's norm. Both sides round bfloat16 often, and a sharp softmax enlarges that."""
_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def replace_forwards(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> int:
    """Let the compiled operators compute what they know of a model.

    Args:
        model: With its adapters, and with whatever else replaces linear layers; `forward` of its
            modules is replaced.
        dtype: Of what its layers are given.
        device: Where it is; only on the processor there are compiled operators.

    Returns:
        How many modules were replaced; 0 where nothing is compiled.
    """
    if device.type != "cpu" or binary.load() is None or dtype not in _TOLERANCES:
        return 0
    count = 0
    # from the inside: a layer is looked at when its parts are done
    for module in reversed(list(model.modules())):
        for fits, call, example in _KINDS:
            if fits(module):
                count += _replace(module, call(module), example(module, dtype))
    return count


def _replace(module: Any, call: Callable[..., Any], example: tuple[Any, dict[str, Any]]) -> bool:
    """Put a forward pass in place, if it gives the same for an example."""
    training = module.training
    module.eval()  # adapters drop nothing
    try:
        with torch.no_grad():
            wanted, found = (_first(each(*example[0], **example[1])) for each in (module, call))
    except UnsupportedError:
        return False  # its attention does more than weigh; the run will say so
    finally:
        module.train(training)
    if not _alike(found, wanted):
        return False
    module.forward = call
    return True


def _alike(found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, torch.Tensor) or found.shape != wanted.shape:
        return False
    difference = torch.linalg.vector_norm(found.float() - wanted.float())
    return bool(difference <= _TOLERANCES[wanted.dtype] * torch.linalg.vector_norm(wanted.float()))


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def _is_norm(module: Any) -> bool:
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return (
        type(module).__name__.endswith("RMSNorm")
        and [name for name, _ in module.named_parameters()] == ["weight"]
        and module.weight.dim() == 1
        and isinstance(epsilon, float)
    )


def _is_gated(module: Any) -> bool:
    return _parts(module) == {"gate_proj", "up_proj", "down_proj", "act_fn"}


def _is_attention(module: Any) -> bool:
    names = _parts(module)
    if names not in (_PROJECTIONS, _PROJECTIONS | _HEAD_NORMS):
        return False
    width, arguments = getattr(module, "head_dim", None), _arguments(module)
    return (
        isinstance(width, int)
        and width % 2 == 0
        and isinstance(getattr(module, "scaling", None), float)
        and {"hidden_states", "position_embeddings", "attention_mask", "kwargs"} <= arguments
        and all(_shape(module, name) == (width,) for name in names & _HEAD_NORMS)
    )


def _is_layer(module: Any) -> bool:
    if _parts(module) != _LAYER:
        return False
    norms = (module.input_layernorm, module.post_attention_layernorm)
    return isinstance(module.self_attn.forward, AttentionCall) and all(
        isinstance(norm.forward, NormCall) for norm in norms
    )


def _parts(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()}


def _arguments(module: Any) -> set[str]:
    return set(inspect.signature(module.forward).parameters)


def _shape(module: Any, norm: str) -> tuple[int, ...]:
    return tuple(getattr(module, norm).weight.shape)


def _norm_example(norm: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    return (_random(dtype, 5, len(norm.weight)),), {}


def _gated_example(layer: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    return (_random(dtype, 1, 5, layer.gate_proj.in_features),), {}


def _attention_example(module: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    # halves that differ, so that who exchanges them is found out
    cos, sin = (_random(dtype, 1, 5, module.head_dim, seed=seed) for seed in (1, 2))
    return (), {
        "hidden_states": _random(dtype, 1, 5, module.q_proj.in_features),
        "position_embeddings": (cos, sin),
        "attention_mask": None,
        STARTS: _EXAMPLE_STARTS,
    }


def _layer_example(layer: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    return _attention_example(layer.self_attn, dtype)


def _random(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers that leave torch's generator as it was."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any], Callable[..., Any]], ...] = (
    (_is_norm, NormCall, _norm_example),
    (_is_gated, GatedCall, _gated_example),
    (_is_attention, AttentionCall, _attention_example),
    (_is_layer, LayerCall, _layer_example),
)
