"""Small good arguments of every operator, by name, and its two implementations."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Callable
from typing import Any

import torch

import native_ops
from native_ops import binary, packed_linear
from native_ops.decoder_adapters import LowRank
from native_ops.encoder_adapters import EncoderSizes, pack_encoder_adapter
from native_ops.encoder_layout import pack
from native_ops.operators import REFERENCES
from tests.unit.native_ops.decoder_models import (
    LLAMA,
    random_adapter,
    random_model,
    tokens_of,
)

IMPLEMENTATIONS = ("compiled", "reference")
"""As torch calls it on the CPU, and as it does on other devices, or where nothing is compiled."""
for module in pkgutil.walk_packages(native_ops.__path__, "native_ops."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)  # which registers its operators

_DECODER = random_model(LLAMA, "F32")
_ADAPTERS = [random_adapter(LLAMA, 4), random_adapter(LLAMA, 7, dtype=torch.bfloat16, seed=1)]
_Q4_1 = packed_linear.FORMATS["Q4_1"]


def implementation(which: str, operator: str) -> Callable[..., Any]:
    """The callable; the binary must be there for `compiled`."""
    if which == "reference":
        return REFERENCES[operator]
    assert not binary.state().reason, binary.state().reason
    found: Callable[..., Any] = getattr(torch.ops.ironcliw, operator).default
    return found


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def starts(lengths: list[int]) -> torch.Tensor:
    """Where texts of these lengths begin, and the end: int32 [B + 1]."""
    return int32(0, *itertools.accumulate(lengths))


def good(operator: str) -> dict[str, Any]:
    """Fresh ones: some operators write into theirs."""
    return _GOOD[operator]()


def _decoder_step() -> dict[str, Any]:
    tokens, positions, slots, rows = tokens_of([5, 2], LLAMA.vocabulary).tensors()
    return {
        "weights": _DECODER.weights,
        "plan": _DECODER.plan,
        "cache": _DECODER.cache(),
        "tokens": tokens,
        "positions": positions,
        "slots": slots,
        "logit_rows": rows,
        "vocabulary": LLAMA.vocabulary,
        "adapters": [adapter.weights for adapter in _ADAPTERS],
        "adapter_plans": [adapter.plan for adapter in _ADAPTERS],
        "row_adapters": int32(0, 0, 0, 0, 0, 1, 1),
    }


def _encoder_forward() -> dict[str, Any]:
    width, inner = 8, 16
    sizes = ((3 * width, width), (width, width), (inner, width), (width, inner))
    biases = [normal(outputs) for outputs, _ in sizes]
    fitting = EncoderSizes(1, width, inner, "float32")
    adapters = [
        pack_encoder_adapter(fitting, {(0, part): LowRank(normal(2, k), normal(n, 2), 1.0)})
        for part, n, k in (("key", width, width), ("up", inner, width))
    ]
    return {
        "tokens": int32(1, 2, 3, 4, 5),
        "cu_seqlens": int32(0, 2, 5),
        "words": normal(50, width),
        "places": normal(6, width, seed=1),
        "weights": [pack(normal(*size), "float32") for size in sizes],
        "vectors": [torch.ones(width), torch.zeros(width), *biases, *[torch.ones(width)] * 4],
        "heads": 2,
        "inner": inner,
        "epsilon": 1e-6,
        "activation": "gelu",
        "number": "float32",
        "adapters": [adapter.weights for adapter in adapters],
        "adapter_ranks": [adapter.ranks for adapter in adapters],
        "text_adapters": int32(-1, 0),
    }


def _packed_attention() -> dict[str, Any]:
    return {
        "q": normal(5, 8),
        "k": normal(5, 8, seed=1),
        "v": normal(5, 8, seed=2),
        "cu_queries": int32(0, 2, 5),
        "cu_keys": int32(0, 2, 5),
        "heads": 2,
        "scale": 0.5,
        "causal": False,
    }


def _encoder_linear() -> dict[str, Any]:
    return {
        "x": normal(5, 8),
        "packed": pack(normal(6, 8), "float32"),
        "bias": normal(6),
        "activation": "gelu",
        "number": "float32",
    }


def _grouped_lora() -> dict[str, Any]:
    return {
        "x": normal(2, 8),
        "y": normal(2, 6),
        "a_weights": normal(3, 5, 8),
        "b_weights": normal(3, 6, 5),
        "ranks": torch.tensor([5, 0, 3]),
        "scales": torch.ones(3),
        "adapter": torch.tensor([-1, 2]),
    }


def _lora_linear() -> dict[str, Any]:
    return {
        "rows": normal(3, 8),
        "dropped": normal(3, 8, seed=1),
        "scale": 2.0,
        "weights": [normal(5, 8), normal(4, 8)],
        "biases": [normal(5), torch.empty(0)],
        "a": [normal(2, 8), normal(3, 8)],
        "b": [normal(5, 2), normal(4, 3)],
    }


def _lora_linear_backward() -> dict[str, Any]:
    forward = _lora_linear()
    return {
        "gradients": [normal(3, 5), normal(3, 4)],
        "source": forward["rows"],
        "inner": normal(3, 5),
        **{name: forward[name] for name in ("scale", "weights", "a", "b")},
        "for_rows": True,
        "shared": True,
    }


def _sample_tokens() -> dict[str, Any]:
    def doubles(*values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return {
        "logits": normal(2, 9),
        "numbers": doubles(0.2, 0.9),
        "temperatures": doubles(1, 0.5),
        "top_p": doubles(1, 0.5),
        "top_k": torch.tensor([0, 3]),
        "penalties": doubles(1, 0, 0, 1.5, 0.5, 0.25).view(2, 3),
        "history": int32(1, 2, 3),
        "history_starts": torch.tensor([0, 1, 3]),
        "answer_starts": torch.tensor([0, 1]),
        "bias_ids": int32(4),
        "bias_values": torch.ones(1),
        "bias_starts": torch.tensor([0, 0, 1]),
        # none is -1: what is not asked for is NaN, and opcheck holds two NaN for different
        "top_counts": torch.tensor([0, 2]),
        "top_width": 2,
    }


def _online_softmax() -> dict[str, Any]:
    state = {name: torch.zeros(2) for name in ("maximum", "total", "target_logit")}
    return {
        "logits": normal(2, 4),
        "targets": torch.tensor([0, 3]),
        "first": 0,
        **state,
        "gradient": normal(2, 3),
    }


def _rotary_attention() -> dict[str, Any]:
    return {
        "q": normal(5, 16),
        "k": normal(5, 8, seed=1),
        "v": normal(5, 8, seed=2),
        "cos": normal(5, 4, seed=3),
        "sin": normal(5, 4, seed=4),
        "cu_seqlens": int32(0, 2, 5),
        "width": 4,
        "scale": 0.5,
    }


def _rotary_attention_backward() -> dict[str, Any]:
    forward = _rotary_attention()
    last = {name: forward.pop(name) for name in ("width", "scale")}
    sums = torch.full((4, 5), 3.0)
    return {"gradient": normal(5, 16, seed=5), **forward, "sums": sums, **last}


_GOOD: dict[str, Callable[[], dict[str, Any]]] = {
    "add_layer_norm": lambda: {
        "x": normal(3, 8),
        "residual": normal(3, 8, seed=1),
        "weight": torch.ones(8),
        "bias": torch.zeros(8),
        "epsilon": 1e-5,
    },
    "add_rms_norm": lambda: {
        "x": normal(3, 8),
        "residual": normal(3, 8, seed=1),
        "weight": torch.ones(8),
        "epsilon": 1e-5,
    },
    "add_rms_norm_backward": lambda: {
        "gradient": normal(3, 8),
        "added": normal(3, 8, seed=1),
        "total": normal(3, 8, seed=2),
        "weight": torch.ones(8),
        "inverse": torch.ones(3),
        "for_weight": True,
    },
    "cosine_top_k": lambda: {
        "queries": normal(2, 8),
        "matrix": torch.ones(4, 8, dtype=torch.int8),
        "k": 3,
        "scales": torch.ones(4),
        "norms": torch.ones(4),
    },
    "decoder_step": _decoder_step,
    "encoder_forward": _encoder_forward,
    "encoder_linear": _encoder_linear,
    "encoder_pack": lambda: {"weight": normal(4, 5), "number": "bfloat16"},
    "grouped_lora": _grouped_lora,
    "lora_linear": _lora_linear,
    "lora_linear_backward": _lora_linear_backward,
    "online_softmax_": _online_softmax,
    "pack_weight": lambda: {
        "source": torch.zeros(20 * 40, dtype=torch.uint8),
        "format": _Q4_1,
        "rows": 20,
        "columns": 64,
    },
    "packed_attention": _packed_attention,
    "packed_linear": lambda: {
        "x": normal(2, 64),
        "packed": torch.zeros(packed_linear.packed_bytes(_Q4_1, 20, 64), dtype=torch.uint8),
        "format": _Q4_1,
        "outputs": 20,
        "planes": 2,
    },
    "pool_texts": lambda: {
        "hidden": normal(5, 8),
        "cu_seqlens": int32(0, 2, 5),
        "mode": "mean",
        "normalize": True,
    },
    "rms_norm": lambda: {"x": normal(3, 8), "weight": torch.ones(8), "epsilon": 1e-5},
    "rotary_attention": _rotary_attention,
    "rotary_attention_backward": _rotary_attention_backward,
    "sample_tokens": _sample_tokens,
    "softmax_gradient_": lambda: {
        "logits": normal(2, 4),
        "targets": torch.tensor([0, 3]),
        "first": 0,
        "logsumexp": torch.ones(2),
        "scale": torch.ones(2),
    },
    "swiglu": lambda: {"gate": normal(3, 8), "up": normal(3, 8, seed=1)},
    "swiglu_backward": lambda: {
        "gradient": normal(3, 8),
        "gate": normal(3, 8, seed=1),
        "up": normal(3, 8, seed=2),
    },
    "token_logprobs": lambda: {
        "hidden": normal(2, 3),
        "weight": normal(9, 3),
        "targets": torch.tensor([0, -100]),
        "with_gradient": True,
    },
    "token_logprobs_weight_gradient": lambda: {
        "hidden": normal(2, 3),
        "weight": normal(9, 3),
        "targets": torch.tensor([0, -100]),
        "logsumexp": torch.ones(2),
        "scale": torch.ones(2),
    },
}
OPERATORS = tuple(_GOOD)
