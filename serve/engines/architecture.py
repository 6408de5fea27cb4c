"""Which encoders run without padding, and where each keeps its weights. No torch.

The BERT family shares one computation: embeddings, then layers of attention and feed-forward, each
followed by a layer norm. Only names and two constants differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ROBERTA = frozenset({"roberta", "xlm-roberta", "camembert"})
_GELU_TANH = frozenset({"gelu_new", "gelu_pytorch_tanh", "gelu_fast"})


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Names of one layer's parts; `.weight` and `.bias` follow."""

    query: str
    key: str
    value: str
    attention_out: str
    attention_norm: str
    up: str
    down: str
    norm: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """A BERT-like encoder: sizes, constants and names.

    Attributes:
        layers: How many.
        heads: Attention heads; divides `hidden`.
        hidden: D, the width of a token's vector.
        activation: `gelu`, `gelu_tanh` or `relu`.
        norm_epsilon: Of every layer norm.
        first_position: The position id of a text's first token.
        has_token_types: Whether a token type vector is added (type 0, as for single texts).
    """

    layers: int
    heads: int
    hidden: int
    activation: str
    norm_epsilon: float
    first_position: int
    has_token_types: bool
    distilbert: bool

    def layer(self, index: int) -> LayerNames:
        """Names of a layer's parts, below the encoder's prefix."""
        if self.distilbert:
            at = f"transformer.layer.{index}."
            parts = (
                *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
                *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
            )
        else:
            at = f"encoder.layer.{index}."
            parts = (
                *("attention.self.query", "attention.self.key", "attention.self.value"),
                *("attention.output.dense", "attention.output.LayerNorm"),
                *("intermediate.dense", "output.dense", "output.LayerNorm"),
            )
        return LayerNames(*(at + part for part in parts))


def known_activation(name: str) -> str | None:
    """`gelu`, `gelu_tanh` or `relu` for a config's activation; None for any other."""
    if name in _GELU_TANH:
        return "gelu_tanh"
    return name if name in {"gelu", "relu"} else None


def bert_like(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture when the packed engine computes it, None when transformers must."""
    kind = config.get("model_type")
    distilbert = kind == "distilbert"
    activation = known_activation(config.get("activation" if distilbert else "hidden_act", "gelu"))
    if (
        kind not in {"bert", "distilbert", *_ROBERTA}
        or activation is None
        or config.get("position_embedding_type", "absolute") != "absolute"
        or config.get("is_decoder", False)
        or config.get("sinusoidal_pos_embds", False)
    ):
        return None
    names = (
        ("n_layers", "n_heads", "dim")
        if distilbert
        else (
            "num_hidden_layers",
            "num_attention_heads",
            "hidden_size",
        )
    )
    defaults = (6 if distilbert else 12, 12, 768)
    layers, heads, hidden = (
        int(config.get(name, default)) for name, default in zip(names, defaults, strict=True)
    )
    return Architecture(
        layers=layers,
        heads=heads,
        hidden=hidden,
        activation=activation,
        norm_epsilon=1e-12 if distilbert else float(config.get("layer_norm_eps", 1e-12)),
        first_position=int(config.get("pad_token_id", 1)) + 1 if kind in _ROBERTA else 0,
        has_token_types=not distilbert,
        distilbert=distilbert,
    )
