"""Forward passes of a decoder's modules, by the compiled operators of `native_ops`.

Each stands in for a module's `forward` (see `fast_layers`), with its arguments and its result, and
leaves to the module's own what it does not know.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from native_ops.rotary_attention import rotary_attention
from native_ops.swiglu import swiglu
from native_ops.training_norm import add_rms_norm, rms_norm_of
from train.model.branches import Branches
from train.model.packed_attention import BRANCHES, STARTS, longest_row


class NormCall:
    """RMSNorm's forward pass."""

    def __init__(self, norm: Any) -> None:
        self._own = norm.forward
        self._norm = norm
        name = "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps"
        self.epsilon = float(getattr(norm, name))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != self._norm.weight.dtype:
            result: torch.Tensor = self._own(x)
            return result
        return rms_norm_of(x, self._norm.weight, self.epsilon)

    def after_addition(
        self, x: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of x and residual, and its norm."""
        if x.dtype != self._norm.weight.dtype:
            total = x if residual is None else x + residual
            return total, self._own(total)
        return add_rms_norm(x, residual, self._norm.weight, self.epsilon)


class GatedCall:
    """The forward pass of a feed-forward layer with SwiGLU."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer = self._layer
        made: torch.Tensor = layer.down_proj(swiglu(layer.gate_proj(x), layer.up_proj(x)))
        return made


class AttentionCall:
    """The forward pass of rotary attention over packed rows."""

    def __init__(self, module: Any) -> None:
        self._own = module.forward
        self._module = module
        config = getattr(module, "config", None)
        self._window = getattr(module, "sliding_window", getattr(config, "sliding_window", None))

    def __call__(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **given: Any,
    ) -> tuple[torch.Tensor, Any]:
        if past_key_values is not None or not self._knows(position_embeddings, given):
            own: tuple[torch.Tensor, Any] = self._own(
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **given,
            )
            return own
        module, width = self._module, self._module.head_dim
        q, k, v = (getattr(module, f"{name}_proj")(hidden_states)[0] for name in "qkv")
        if hasattr(module, "q_norm"):
            q = module.q_norm(q.view(len(q), -1, width)).view(q.shape)
            k = module.k_norm(k.view(len(k), -1, width)).view(k.shape)
        cos, sin = (each.reshape(-1, width).to(q.dtype) for each in position_embeddings or ())
        branches: Branches | None = given.get(BRANCHES)
        if branches is not None:
            q, k, v, cos, sin = (t.index_select(0, branches.order) for t in (q, k, v, cos, sin))
        starts = torch.tensor(_starts(given), dtype=torch.int32)
        found = rotary_attention(q, k, v, cos, sin, starts, width, module.scaling)
        if branches is not None:
            found = found.index_select(0, branches.own)
        return module.o_proj(found[None]), None

    def _knows(self, rotation: tuple[torch.Tensor, torch.Tensor] | None, given: Any) -> bool:
        module = self._module
        return (
            (STARTS in given or BRANCHES in given)
            and rotation is not None
            and rotation[0].shape[-1] == module.head_dim
            and not (module.training and getattr(module, "attention_dropout", 0.0))
            and (self._window is None or longest_row(_starts(given)) <= self._window)
        )


def _starts(given: Any) -> list[int]:
    """Where rows start, those with a common beginning put together."""
    starts: list[int] = given[BRANCHES].starts if BRANCHES in given else given[STARTS]
    return starts


class LayerCall:
    """A decoder's layer, its additions done by the norms behind them."""

    def __init__(self, layer: Any) -> None:
        self._own = layer.forward
        self._layer = layer

    def __call__(self, hidden_states: torch.Tensor, *rest: Any, **given: Any) -> Any:
        layer = self._layer
        if rest:
            return self._own(hidden_states, *rest, **given)
        # transformers wraps `forward` of the class for this (GradientCheckpointingLayer)
        if layer.training and getattr(layer, "gradient_checkpointing", False):
            again = layer._gradient_checkpointing_func
            return again(functools.partial(self._compute, **given), hidden_states)
        return self._compute(hidden_states, **given)

    def _compute(self, hidden_states: torch.Tensor, **given: Any) -> torch.Tensor:
        layer = self._layer
        stream, x = layer.input_layernorm.forward.after_addition(hidden_states, None)
        x, _ = layer.self_attn(hidden_states=x, **given)
        stream, x = layer.post_attention_layernorm.forward.after_addition(stream, x)
        made: torch.Tensor = stream + layer.mlp(x)
        return made
