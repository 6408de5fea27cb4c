"""What every operator refuses, compiled and in its reference: the same input, in the same words.

A bad argument is a RuntimeError that names the operator, the argument and the rule. Plans of the
decoder are in test_decoder_plan.py, in the same two implementations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from native_ops.encoder_checks import INT8_INPUTS
from native_ops.packed_linear import FORMATS, packed_bytes
from tests.unit.native_ops.operator_arguments import (
    IMPLEMENTATIONS,
    OPERATORS,
    good,
    implementation,
    int32,
)

Bad = tuple[str, str, Any, str]
"""Operator, argument, what it is instead, and what the message must say."""

LABELS = {
    ("lora_linear", "rows"): "x",
    ("lora_linear_backward", "source"): "x",
    **{
        (operator, name): f"{label} of layer 0"
        for operator in ("lora_linear", "lora_linear_backward")
        for name, label in (("weights", "weight"), ("biases", "bias"), ("a", "a"), ("b", "b"))
    },
    ("lora_linear_backward", "gradients"): "gradient of layer 0",
}
"""Arguments that messages call by another name."""


def tensors() -> Iterator[tuple[str, str, torch.Tensor, str]]:
    """Every tensor argument of every operator, and its name in messages; of a list the first."""
    for operator in OPERATORS:
        for name, value in good(operator).items():
            if isinstance(value, torch.Tensor):
                yield operator, name, value, LABELS.get((operator, name), name)
            elif isinstance(value, list):
                yield operator, name, value[0], LABELS.get((operator, name), f"{name}[0]")


def put(operator: str, name: str, changed: torch.Tensor) -> Any:
    """The argument with this tensor: itself, or a list whose first it is."""
    before = good(operator)[name]
    return [changed, *before[1:]] if isinstance(before, list) else changed


def wrong_types() -> Iterator[Bad]:
    for operator, name, value, label in tensors():
        rule = rf"{re.escape(label)} must be .*; it is int16"
        yield operator, name, put(operator, name, value.to(torch.int16)), rule


def wrong_dimensions() -> Iterator[Bad]:
    for operator, name, value, label in tensors():
        shape = re.escape(str([1, *value.shape]))
        rule = rf"{re.escape(label)} must have [123] dimensions; its shape is {shape}"
        yield operator, name, put(operator, name, value[None]), rule


def wrong_devices() -> Iterator[Bad]:
    for operator, name, value, _ in tensors():
        arguments = good(operator)
        if sum(isinstance(other, torch.Tensor | list) for other in arguments.values()) == 1:
            continue  # there is no other tensor to differ from
        label = re.escape(f"{name}[0]" if isinstance(arguments[name], list) else name)
        rule = rf"({label} must be on cpu as .*meta|.* must be on meta as {label}; it is on cpu)"
        yield operator, name, put(operator, name, value.to("meta")), rule


STARTS = (
    (int32(0, 2, 5).long(), "must be int32; it is int64"),
    (int32(), "must have at least one entry"),
    (int32(1, 2, 5), "must begin with 0; it begins with 1"),
    (int32(0, -1, 5), "must rise; entry 1 is -1 after 0"),
    (int32(0, 4, 3), "must rise; entry 2 is 3 after 4"),
    (int32(0, 5, 5), "must rise; entry 2 is 5 after 5"),
    (int32(0, 2, 6), "must end with the number of tokens, 5; it ends with 6"),
    (int32(0, 2, 2**31 - 1), "must end with the number of tokens, 5"),
)


def wrong_starts() -> Iterator[Bad]:
    for operator, name in (
        ("encoder_forward", "cu_seqlens"),
        ("packed_attention", "cu_queries"),
        ("packed_attention", "cu_keys"),
        ("pool_texts", "cu_seqlens"),
        ("rotary_attention", "cu_seqlens"),
        ("rotary_attention_backward", "cu_seqlens"),
    ):
        for value, rule in STARTS:
            yield operator, name, value, f"{name} {rule}"


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def floats(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def ranks(*given: int, layers: int = 1) -> list[torch.Tensor]:
    """Of two adapters of an encoder: those of the first layer's parts, the rest 0."""
    found = torch.zeros(layers, 6, dtype=torch.int64)
    found[0, : len(given)] = torch.tensor(given)
    return [found] * 2


NAN = torch.nan
MISALIGNED = torch.zeros(packed_bytes(FORMATS["Q4_1"], 20, 64) + 1, dtype=torch.uint8)[1:]
ALONE: list[Bad] = [
    ("add_layer_norm", "x", floats(3, 0), r"x must have columns; its shape is \[3, 0\]"),
    ("add_layer_norm", "weight", floats(7), "weight must have 8 in dimension 0"),
    ("add_layer_norm", "bias", floats(7), "bias must have 8 in dimension 0"),
    ("add_layer_norm", "residual", floats(2, 8), "residual must have 3 in dimension 0"),
    ("add_layer_norm", "residual", floats(3, 9), "residual must have 8 in dimension 1"),
    ("add_layer_norm", "residual", floats(3, 8).bfloat16(), "residual must be float32; it is bf"),
    ("add_rms_norm", "x", floats(3, 0), r"x must have columns; its shape is \[3, 0\]"),
    ("add_rms_norm", "residual", floats(2, 8), "residual must have 3 in dimension 0"),
    ("add_rms_norm", "residual", floats(3, 8).bfloat16(), "residual must be float32; it is bf"),
    ("add_rms_norm", "weight", floats(7), "weight must have 8 in dimension 0"),
    ("add_rms_norm", "weight", floats(8).bfloat16(), "weight must be float32; it is bfloat16"),
    ("add_rms_norm_backward", "gradient", floats(3, 7), "gradient must have 8 in dimension 1"),
    ("add_rms_norm_backward", "added", floats(2, 8), "added must have 3 in dimension 0"),
    ("add_rms_norm_backward", "weight", floats(7), "weight must have 8 in dimension 0"),
    ("add_rms_norm_backward", "inverse", floats(4), "inverse must have 3 in dimension 0"),
    ("cosine_top_k", "queries", floats(2, 7), "queries must have 8 in dimension 1"),
    ("cosine_top_k", "matrix", floats(0, 8).char(), "matrix must have rows"),
    ("cosine_top_k", "k", 0, "k must be from 1 to the matrix's 4 rows; it is 0"),
    ("cosine_top_k", "k", 5, "k must be from 1 to the matrix's 4 rows; it is 5"),
    ("cosine_top_k", "scales", None, "scales must be given with an int8 matrix"),
    ("cosine_top_k", "norms", floats(3), "norms must have 4 in dimension 0"),
    ("cosine_top_k", "norms", torch.tensor([1, NAN, -1.5, -2]), "norms must .*; row 2 has -1.5"),
    ("decoder_step", "vocabulary", 108, "vocabulary must be the plan's 107; it is 108"),
    ("decoder_step", "adapter_plans", [], "adapter_plans must be one for each of the 2 adapters"),
    ("decoder_step", "row_adapters", int32(0, 0), "row_adapters must have 7 in dimension 0"),
    ("decoder_step", "row_adapters", int32(0, 0, 0, 0, 0, 1, 2), "row_adapters must be from -1"),
    ("decoder_step", "row_adapters", int32(-2, 0, 0, 0, 0, 1, 1), "row_adapters .* element 0 is"),
    ("decoder_step", "adapters", [floats(9).byte()] * 2, "adapter_plans must have .* inside the"),
    ("decoder_step", "adapters", [floats(9)] * 2, r"adapters\[0\] must be uint8; it is"),
    ("encoder_forward", "tokens", int32(0, 0, 50, 0, 0), "tokens must be 0 to 49, .*; token 2 is"),
    ("encoder_forward", "tokens", int32(-1, 0, 0, 0, 0), "tokens must be 0 to 49, .*0 is -1"),
    ("encoder_forward", "tokens", int32(0, 0, 0, 0, 2**31 - 1), "tokens must be 0 to 49"),
    ("encoder_forward", "places", floats(6, 9), "places must have 8 in dimension 1"),
    ("encoder_forward", "places", floats(2, 8), "cu_seqlens must .* rows, 2; text 1 has 3"),
    ("encoder_forward", "weights", [floats(9).byte()] * 4, r"weights\[0\] must have 1024 in"),
    ("encoder_forward", "weights", [floats(9).byte()] * 3, "weights must be 4 for each layer"),
    ("encoder_forward", "weights", [], "vectors must be 2 and 8 for each of 0 layers; they are 10"),
    ("encoder_forward", "vectors", [floats(8)] * 3, "vectors must be 2 and 8 for each of 1 layers"),
    ("encoder_forward", "vectors", [floats(8)] * 10, r"vectors\[2\] must have 24 in dimension 0"),
    ("encoder_forward", "heads", 3, "heads must divide the width; it is 3 of 8"),
    ("encoder_forward", "heads", 0, "heads must divide the width; it is 0 of 8"),
    ("encoder_forward", "inner", 0, "inner must be positive; it is 0"),
    ("encoder_forward", "inner", 2**62, r"vectors\[4\] must have 4611686018427387904 in"),
    ("encoder_forward", "activation", "swish", "activation must be none, .*; it is swish"),
    ("encoder_forward", "number", "int4", "number must be float32, bfloat16 or int8; it is int4"),
    ("encoder_forward", "adapters", [floats(9).byte()] * 2, r"adapters\[0\] must have 1280 in dim"),
    ("encoder_forward", "adapters", [floats(2560).byte()[::2]] * 2, r"adapters\[0\] must be cont"),
    ("encoder_forward", "adapter_ranks", [], "adapter_ranks must be one for each of 2 adapters; t"),
    (
        "encoder_forward",
        "adapter_ranks",
        ranks(0, 0, layers=2),
        r"adapter_ranks\[0\] must have 1 in",
    ),
    (
        "encoder_forward",
        "adapter_ranks",
        [torch.zeros(1, 5).long()] * 2,
        r"adapter_ranks\[0\] must have 6 in dim",
    ),
    ("encoder_forward", "adapter_ranks", ranks(0, -1), r".*0 to 1024; of layer 0 number 1 is -1"),
    ("encoder_forward", "adapter_ranks", ranks(1025), r".*0 to 1024; of layer 0 number 0 is 1025"),
    ("encoder_forward", "adapter_ranks", ranks(0, 3), r"adapters\[0\] must have 1408 in dimension"),
    ("encoder_forward", "text_adapters", int32(0), "text_adapters must have 2 in dimension 0"),
    (
        "encoder_forward",
        "text_adapters",
        int32(0, 2),
        "text_adapters must be from -1 to 1; .*1 is 2",
    ),
    ("encoder_forward", "text_adapters", int32(-2, 0), "text_adapters must be .*; element 0 is -2"),
    ("encoder_linear", "x", floats(5, 0), "x must have columns"),
    ("encoder_linear", "x", floats(5, 9), r"packed must have 1152 .*its shape is \[1024\]"),
    ("encoder_linear", "packed", floats(2048)[::2].byte()[:9], "packed must have 1024 in"),
    ("encoder_linear", "packed", floats(2048).byte()[::2], "packed must be contiguous"),
    ("encoder_linear", "activation", "swish", "activation must be none, .*; it is swish"),
    ("encoder_linear", "number", "int4", "number must be float32, bfloat16 or int8; it is int4"),
    ("encoder_pack", "weight", floats(0, 5), "weight must not be empty"),
    ("encoder_pack", "number", "int4", "number must be float32, bfloat16 or int8; it is int4"),
    ("grouped_lora", "y", floats(6, 2).T, "y must be contiguous"),
    ("grouped_lora", "ranks", torch.tensor([0, 6, 0]), "ranks must be from 0 to 5"),
    ("grouped_lora", "ranks", torch.tensor([0, -1, 0]), "ranks must be from 0 to 5"),
    ("grouped_lora", "scales", floats(2), "scales must have 3 in dimension 0"),
    ("grouped_lora", "adapter", torch.tensor([0, 3]), "adapter must hold ids from -1 to 2"),
    ("grouped_lora", "adapter", torch.tensor([0, -2]), "adapter must hold ids from -1 to 2"),
    ("lora_linear", "weights", [], "layers is empty"),
    ("lora_linear", "a", [floats(2, 8)], "a must be one for each of 2 layers; they are 1"),
    ("lora_linear", "biases", [floats(5)], "biases must be one for each of 2 layers, or none"),
    ("lora_linear", "dropped", floats(2, 8), "dropped must have 3 in dimension 0"),
    ("lora_linear_backward", "gradients", [floats(3, 5)], "gradients must be one for each of 2"),
    ("lora_linear_backward", "inner", floats(3, 4), "inner must have 5 in dimension 1"),
    ("online_softmax_", "logits", floats(4, 2).T, "logits must be contiguous"),
    ("online_softmax_", "logits", floats(2, 0), r"logits must have columns; .* is \[2, 0\]"),
    ("online_softmax_", "targets", torch.zeros(3).long(), "targets must have 2 in dimension 0"),
    ("online_softmax_", "total", floats(4)[::2], "total must be contiguous"),
    ("online_softmax_", "gradient", floats(3, 2).T, "gradient must be contiguous"),
    ("pack_weight", "source", torch.zeros(19).byte(), "source must have 800 in dimension 0"),
    ("pack_weight", "format", 10, "format must be one of FORMATS; it is 10"),
    ("pack_weight", "rows", -1, r"rows must be 0 to 2\^28; it is -1"),
    ("pack_weight", "columns", 63, "columns must be a multiple of 32 for format 3; it is 63"),
    ("packed_attention", "k", floats(5, 6), "k must have 8 in dimension 1"),
    ("packed_attention", "k", floats(5, 8).bfloat16(), "k must be float32; it is bfloat16"),
    ("packed_attention", "v", floats(4, 8), "v must have 5 in dimension 0"),
    ("packed_attention", "heads", 3, "heads must divide the columns of q; it is 3 of 8"),
    ("packed_attention", "heads", -2, "heads must divide the columns of q; it is -2 of 8"),
    ("packed_attention", "cu_keys", int32(0, 5), r"cu_keys must have 3 in dimension 0; .* \[2\]"),
    ("packed_linear", "packed", MISALIGNED, "packed must start at a multiple of 4 bytes"),
    ("packed_linear", "packed", MISALIGNED[:-1], "packed must have 1280 in dimension 0"),
    ("packed_linear", "format", 10, "format must be one of FORMATS; it is 10"),
    ("packed_linear", "outputs", 1 << 40, r"rows must be 0 to 2\^28"),
    ("packed_linear", "planes", 3, "planes must be 1 or 2; it is 3"),
    ("pool_texts", "mode", "median", "mode must be mean, .*; it is median"),
    ("rms_norm", "x", floats(3, 0), "x must have columns"),
    ("rms_norm", "weight", floats(1), "weight must have 8 in dimension 0"),
    ("rotary_attention", "width", 0, "width must divide the columns of q; it is 0 of 16"),
    ("rotary_attention", "width", 5, "width must divide the columns of q; it is 5 of 16"),
    ("rotary_attention", "width", 1, r"cos must have 1 in .*|width must be even .*; it is 1"),
    ("rotary_attention", "q", floats(5, 12), r"k must have columns that divide those of q, 12"),
    ("rotary_attention", "k", floats(5, 0), r"k must have .* in heads of 4; its shape is \[5, 0\]"),
    ("rotary_attention", "k", floats(4, 8), "k must have 5 in dimension 0"),
    ("rotary_attention", "v", floats(5, 4), "v must have 8 in dimension 1"),
    ("rotary_attention", "sin", None, "cos and sin must be given together"),
    ("rotary_attention", "cos", floats(5, 8), "cos must have 4 in dimension 1"),
    ("rotary_attention", "scale", 0.0, "scale must be above 0; it is 0"),
    ("rotary_attention", "scale", NAN, "scale must be above 0; it is nan"),
    ("rotary_attention_backward", "gradient", floats(5, 8), "gradient must have 16 in dimension 1"),
    ("rotary_attention_backward", "sums", floats(3, 5), "sums must have 4 in dimension 0"),
    ("sample_tokens", "logits", floats(2, 0), "logits must have 1 to 2"),
    ("sample_tokens", "numbers", doubles(0, NAN), r"numbers must be in \[0, 1\)"),
    ("sample_tokens", "numbers", doubles(0, 1), r"numbers must be in \[0, 1\)"),
    ("sample_tokens", "temperatures", doubles(NAN, 1), "temperatures must be finite"),
    ("sample_tokens", "top_p", doubles(1, NAN), r"top_p must be in \[0, 1\]"),
    ("sample_tokens", "top_k", torch.tensor([0, -1]), "top_k must not be negative"),
    ("sample_tokens", "penalties", doubles(*[NAN] * 6).view(2, 3), "repetition penalties must be"),
    ("sample_tokens", "penalties", doubles(1, NAN, 0, 1, 0, 0).view(2, 3), "penalties must be fin"),
    ("sample_tokens", "history", int32(0, 9, 0), "history must hold ids below 9"),
    ("sample_tokens", "history", int32(0, -1, 0), "history must hold ids below 9"),
    ("sample_tokens", "history_starts", torch.tensor([0, 4, 3]), "history_starts must rise from 0"),
    ("sample_tokens", "history_starts", torch.tensor([0, 1, 4]), "history_starts must go from 0"),
    ("sample_tokens", "history_starts", torch.tensor([-1, 1, 3]), "history_starts must"),
    ("sample_tokens", "answer_starts", torch.tensor([2, 0]), "answer_starts must lie within"),
    ("sample_tokens", "bias_ids", int32(9), "bias_ids must hold ids below 9"),
    (
        "sample_tokens",
        "top_counts",
        torch.tensor([0, 3]),
        "top_counts must be from -1 to top_width",
    ),
    ("sample_tokens", "top_width", -1, "top_width must not be negative"),
    ("softmax_gradient_", "logits", floats(2, 0), r"logits must have columns; .* is \[2, 0\]"),
    ("softmax_gradient_", "scale", floats(3), "scale must have 2 in dimension 0"),
    ("swiglu", "gate", floats(3, 0), r"gate must have columns; its shape is \[3, 0\]"),
    ("swiglu", "up", floats(3, 7), "up must have 8 in dimension 1"),
    ("swiglu_backward", "gradient", floats(2, 8), "gradient must have 3 in dimension 0"),
    ("token_logprobs", "weight", floats(9, 4), "weight must have 3 in dimension 1"),
    ("token_logprobs", "weight", floats(0, 3), "weight must have a row at least"),
    ("token_logprobs", "weight", floats(9, 3).double(), "weight must be float32; it is float64"),
    ("token_logprobs", "targets", torch.tensor([0, 9]), r"targets must be -100 or in \[0, 9\)"),
    ("token_logprobs", "targets", torch.tensor([-1, 0]), r"targets must be -100 or in \[0, 9\)"),
    ("token_logprobs_weight_gradient", "targets", torch.tensor([0, 9]), "targets must be -100 or"),
    ("token_logprobs_weight_gradient", "scale", floats(3), "scale must have 2 in dimension 0"),
]
CASES = [*wrong_types(), *wrong_dimensions(), *wrong_devices(), *wrong_starts(), *ALONE]


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("operator", "name", "value", "rule"), CASES, ids=lambda part: part if type(part) is str else ""
)
def test_a_bad_argument_is_named(
    which: str, operator: str, name: str, value: Any, rule: str
) -> None:
    arguments = {**good(operator), name: value}
    with pytest.raises(RuntimeError, match=rf"^ironcliw::{operator}: {rule}"):
        implementation(which, operator)(*arguments.values())


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_good_arguments_are_good(which: str, operator: str) -> None:
    implementation(which, operator)(*good(operator).values())


WIDE = INT8_INPUTS + 1
TOGETHER: list[tuple[str, dict[str, Any], str]] = [
    (
        "packed_attention",
        {"cu_queries": int32(0, 3, 5), "causal": True},
        "cu_keys must .* text 0 has 2 for 3",
    ),
    (
        "encoder_pack",
        {"weight": floats(1, WIDE), "number": "int8"},
        r"weight must have at most 132104 columns for int8; its shape is \[1, 132105\]",
    ),
    (
        "encoder_linear",
        {"x": floats(1, WIDE), "number": "int8"},
        r"x must have at most 132104 columns for int8; its shape is \[1, 132105\]",
    ),
    (
        "encoder_forward",
        {"inner": WIDE, "number": "int8"},
        "inner must be at most 132104 for int8; it is 132105",
    ),
    (
        "encoder_forward",
        {"words": floats(50, WIDE), "places": floats(6, WIDE), "heads": 1, "number": "int8"},
        r"words must have at most 132104 columns for int8; its shape is \[50, 132105\]",
    ),
]
"""Operator, arguments that are bad only together, and what the message must say."""


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
@pytest.mark.parametrize(("operator", "changes", "rule"), TOGETHER)
def test_arguments_that_are_bad_together_are_named(
    which: str, operator: str, changes: dict[str, Any], rule: str
) -> None:
    arguments = {**good(operator), **changes}
    with pytest.raises(RuntimeError, match=rf"^ironcliw::{operator}: {rule}"):
        implementation(which, operator)(*arguments.values())


@pytest.mark.parametrize(
    ("operator", "name", "value"),
    [case[:3] for case in (*wrong_types(), *wrong_dimensions(), *wrong_starts(), *ALONE)],
    ids=lambda part: part if type(part) is str else "",
)
def test_both_implementations_use_the_same_words(operator: str, name: str, value: Any) -> None:
    messages = []
    for which in IMPLEMENTATIONS:
        with pytest.raises(RuntimeError, match=f"^ironcliw::{operator}: ") as caught:
            implementation(which, operator)(*{**good(operator), name: value}.values())
        messages.append(str(caught.value).splitlines()[0])
    assert messages[0] == messages[1]
