"""A model without its weights: what is done to a model before its weights are read, in pieces.

No worker ever holds the whole model. So adapters are put on, layers fused and forward passes
replaced while the weights are stand-ins: of no size where only shapes are asked for, random and of
one layer at a time where the compiled forward passes are compared with the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ironcliw.errors import UnsupportedError
from train.model.fast_layers import replace_forwards

_SCALE = 0.05
"""Of random stand-ins: as large as weights are."""


def build_skeleton(name: str, config: Any, dtype: torch.dtype, attention: str) -> Any:
    """transformers' model with its head; weights on the meta device, buffers as they must be.

    Args:
        name: For messages.
        config: transformers'.
        dtype: Of the weights.
        attention: Name of the attention.

    Raises:
        UnsupportedError: the model computes something when it is made that is not known here.
    """
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = loader.from_config(config, dtype=dtype, attn_implementation=attention)
    model.tie_weights()
    for path, module in model.named_modules():
        lacking = {key for key, each in module.named_buffers(recurse=False) if each.is_meta}
        if not lacking:
            continue
        if not type(module).__name__.endswith("RotaryEmbedding"):
            raise UnsupportedError(
                f"model {name!r}: {path} ({type(module).__name__}) computes {sorted(lacking)} when "
                "it is made, which cannot be sharded; train it with sharding.mode none, or take a "
                "model such as Llama, Mistral or Qwen"
            )
        made = type(module)(config)
        for key in lacking:
            setattr(module, key, getattr(made, key))
    return model


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The layers of a model that are gathered one at a time, from the first to the last."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [each for each in model.modules() if type(each).__name__ in names]


@contextmanager
def without_size(model: torch.nn.Module) -> Iterator[None]:
    """Let weights look as if they were on the processor, all numbers of each being one."""
    replace_parameters(model, lambda each: torch.zeros((), dtype=each.dtype).expand(each.shape))
    try:
        yield
    finally:
        replace_parameters(
            model,
            lambda each: (
                torch.empty(each.shape, dtype=each.dtype, device="meta")
                if each.numel() > 1 and not any(each.stride())
                else each
            ),
        )


def replace_forwards_unloaded(
    model: Any, dtype: torch.dtype, device: torch.device, layers: list[torch.nn.Module]
) -> int:
    """`replace_forwards` for a model whose weights are on the meta device.

    Args:
        model: transformers'.
        dtype: Of what its layers are given.
        device: Where it will be.
        layers: Of `layers_of`; the rest of the model is looked at module by module.
    """
    if device.type != "cpu":
        return 0  # nothing is compiled
    inside = {id(each) for layer in layers for each in layer.modules()}
    rest = [
        each
        for each in model.modules()
        if id(each) not in inside and each._parameters and not list(each.children())
    ]
    count = 0
    for part in [*layers, *rest]:
        if part in rest and any(each.dim() > 1 for each in part.parameters()):
            continue  # the embedding and the head: the largest tensors, which nothing replaces
        with _random_weights(part):
            count += replace_forwards(part, dtype, device)
    return count


@contextmanager
def _random_weights(part: torch.nn.Module) -> Iterator[None]:
    """Stand-ins that differ from number to number; torch's generator stays as it was."""
    generator = torch.Generator().manual_seed(0)
    made: set[int] = set()

    def fill(each: torch.Tensor) -> torch.Tensor:
        if not each.is_meta:
            return each
        drawn = torch.randn(each.shape, generator=generator).mul_(_SCALE).to(each.dtype)
        made.add(drawn.data_ptr())
        return drawn

    replace_parameters(part, fill)
    try:
        yield
    finally:
        replace_parameters(
            part,
            lambda each: (
                torch.empty(each.shape, dtype=each.dtype, device="meta")
                if each.data_ptr() in made
                else each
            ),
        )


def replace_parameters(
    module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Replace the parameters of a module; one that has two places keeps both."""
    changed: dict[int, torch.nn.Parameter] = {}
    kept: list[torch.nn.Parameter] = []  # whose ids must not be given to others meanwhile
    for each in module.modules():
        for key, parameter in each._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in changed:
                data = parameter.detach()
                made = change(data)
                new = torch.nn.Parameter(made, requires_grad=parameter.requires_grad)
                changed[id(parameter)] = parameter if made is data else new
                kept.append(parameter)
            each._parameters[key] = changed[id(parameter)]
