"""Layers of one input computed together: q, k and v, gate and up, through `native_ops.lora`.

transformers calls q_proj(x), k_proj(x) and v_proj(x) one after the other, with the same tensor. The
first of them computes all, the others hand out what is ready. So no architecture's forward pass is
written again here; a model that calls them otherwise gets each layer by itself, and the same
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from native_ops.lora import LoraLayer, lora_linear
from train.model.adapters import ADAPTER

_TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("query", "key", "value"),
)


class SharedInput:
    """Layers that are given the same tensor, one after the other.

    Args:
        layers: peft's linear layers, with one scale and one dropout.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = list(layers)
        self._first = layers[0]
        self._scale = float(layers[0].scaling[ADAPTER])
        self._dropout = dropout_of(layers[0])
        self._input: torch.Tensor | None = None
        self._ready: dict[int, torch.Tensor] = {}

    def call(self, at: int, x: torch.Tensor) -> torch.Tensor:
        """The output of layer `at` for x [..., D]."""
        if self._first.disable_adapters:
            layer = self._layers[at].base_layer
            return F.linear(x, layer.weight, layer.bias)
        if self._input is not x or at not in self._ready:
            # looked up at each call: a sharded model has others whenever a layer is gathered
            layers = [_weights(layer) for layer in self._layers]
            outputs = lora_linear(x, layers, self._scale, self._dropout, self._first.training)
            self._input, self._ready = x, dict(enumerate(outputs))
        found = self._ready.pop(at)
        if not self._ready:
            self._input = None
        return found


def _weights(layer: Any) -> LoraLayer:
    base = layer.base_layer
    return LoraLayer(
        base.weight, base.bias, layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    )


def fuse(model: torch.nn.Module) -> int:
    """Let the adapted layers of a model be computed together where they share an input.

    Args:
        model: With adapters; its layers' `forward` is replaced.

    Returns:
        How many groups there are; 0 where nothing fits, such as quantised weights or DoRA.
    """
    groups = 0
    for parent in model.modules():
        children = dict(parent.named_children())
        taken: set[str] = set()
        for names in _TOGETHER:
            layers = [children[name] for name in names if name in children]
            if len(layers) == len(names) and all(map(fits, layers)) and _alike(layers):
                _install(layers)
                taken.update(names)
                groups += 1
        for name, child in children.items():
            if name not in taken and fits(child):
                _install([child])
                groups += 1
    return groups


def _install(layers: Sequence[Any]) -> None:
    shared = SharedInput(layers)
    for at, layer in enumerate(layers):
        layer.forward = _Call(shared, at)


class _Call:
    """A layer's forward pass; a class, so that it can be pickled and told apart."""

    def __init__(self, shared: SharedInput, at: int) -> None:
        self._shared = shared
        self._at = at

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._shared.call(self._at, x)


def fits(layer: Any) -> bool:
    """Whether it is a plain linear layer, frozen, with one plain adapter."""
    from peft.tuners.lora import Linear

    if not isinstance(layer, Linear) or layer.active_adapters != [ADAPTER] or layer.merged:
        return False
    base = layer.base_layer
    return (
        type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and ADAPTER in layer.lora_A
        and not layer.use_dora.get(ADAPTER, False)
        and layer.lora_A[ADAPTER].bias is None
        and layer.lora_B[ADAPTER].bias is None
    )


def _alike(layers: Sequence[Any]) -> bool:
    return len({(layer.scaling[ADAPTER], dropout_of(layer)) for layer in layers}) == 1


def dropout_of(layer: Any) -> float:
    """The chance with which an adapter's input is zeroed."""
    return float(getattr(layer.lora_dropout[ADAPTER], "p", 0.0))
