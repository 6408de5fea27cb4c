"""The next token of each row of logits: bias, penalties, temperature, top_k, top_p and the draw.

`native_ops.sampling_reference` says exactly what is drawn: a row and a number give the same token
on every machine. A row's result depends on nothing in the other rows.

Shapes: R rows, V vocabulary, H tokens of all histories, B biases, N likeliest tokens at most.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from native_ops.checks import check_size, check_tensor, need
from native_ops.operators import define
from native_ops.sampling_reference import draw_number, likeliest, log_normaliser, penalise

BROKEN = -1
"""In place of a token: the largest logit of the row is NaN or infinite."""

_NAME = "sample_tokens"
_FORMS = (
    ("logits", torch.float32, 2),
    ("numbers", torch.float64, 1),
    ("temperatures", torch.float64, 1),
    ("top_p", torch.float64, 1),
    ("top_k", torch.int64, 1),
    ("penalties", torch.float64, 2),
    ("history", torch.int32, 1),
    ("history_starts", torch.int64, 1),
    ("answer_starts", torch.int64, 1),
    ("bias_ids", torch.int32, 1),
    ("bias_values", torch.float32, 1),
    ("bias_starts", torch.int64, 1),
    ("top_counts", torch.int64, 1),
)


def sample_tokens_reference(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row by row, in numpy, wherever the logits are."""
    *tensors, top_width = arguments
    _check(tensors, top_width)
    device = tensors[0].device
    rows, numbers, heat, top_p, top_k, penalties, *lists = (t.cpu().numpy() for t in tensors)
    history, starts, answers, bias_ids, bias_values, bias_starts, top_counts = lists
    tokens = np.full(len(rows), BROKEN, np.int64)
    normalisers = np.full(len(rows), np.nan)
    top_ids = np.full((len(rows), top_width), -1, np.int64)
    for r, row in enumerate(rows):
        if not np.isfinite(row.max()):
            continue
        if top_counts[r] >= 0:
            normalisers[r] = log_normaliser(row)
            top = likeliest(row, int(top_counts[r]))
            top_ids[r, : len(top)] = top
        seen, biased = history[starts[r] : starts[r + 1]], slice(bias_starts[r], bias_starts[r + 1])
        bias = (bias_ids[biased], bias_values[biased])
        row = penalise(row, penalties[r], seen, seen[answers[r] :], bias)
        if np.isfinite(row.max()):
            tokens[r] = draw_number(row, numbers[r], float(heat[r]), int(top_k[r]), top_p[r])
    return (
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(normalisers).to(device),
        torch.from_numpy(top_ids).to(device),
    )


def _fake(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits, top_width = arguments[0], arguments[-1]
    rows = logits.shape[0]
    return (
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.float64),
        logits.new_empty((rows, top_width), dtype=torch.int64),
    )


def _check(tensors: list[torch.Tensor], top_width: int) -> None:
    for tensor, (name, dtype, dim) in zip(tensors, _FORMS, strict=True):
        check_tensor(_NAME, name, tensor, dtype, [None] * dim)
    logits, numbers, heat, top_p, top_k, penalties, *lists = tensors
    history, starts, answers, bias_ids, bias_values, bias_starts, top_counts = lists
    rows, width = logits.shape
    _require(
        0 < width < 2**31, f"logits must have 1 to 2^31 - 1 columns; the shape is {[rows, width]}"
    )
    _require(top_width >= 0, f"top_width must not be negative; it is {top_width}")
    sizes = {
        "numbers": (numbers, rows),
        "temperatures": (heat, rows),
        "top_p": (top_p, rows),
        "top_k": (top_k, rows),
        "penalties": (penalties, rows),
        "history_starts": (starts, rows + 1),
        "answer_starts": (answers, rows),
        "bias_values": (bias_values, len(bias_ids)),
        "bias_starts": (bias_starts, rows + 1),
        "top_counts": (top_counts, rows),
    }
    for name, (tensor, size) in sizes.items():
        check_size(_NAME, name, tensor, 0, size)
    check_size(_NAME, "penalties", penalties, 1, 3)
    for name, begins, items in (
        ("history_starts", starts, history),
        ("bias_starts", bias_starts, bias_ids),
    ):
        for left, right in itertools.pairwise(begins.tolist()):
            rule = f"{name} must rise from 0; it is {left} before {right}"
            _require(0 <= left <= right, rule)
        ends = (int(begins[0]), int(begins[-1]))
        rule = f"{name} must go from 0 to {len(items)}; it goes from {ends[0]} to {ends[1]}"
        _require(ends == (0, len(items)), rule)
    for name, ids in (("history", history), ("bias_ids", bias_ids)):
        outside = ids[(ids < 0) | (ids >= width)]
        if len(outside):
            _require(False, f"{name} must hold ids below {width}; one is {int(outside[0])}")
    _check_rows(tensors, top_width)


def _check_rows(tensors: list[torch.Tensor], top_width: int) -> None:
    """Name the first row that breaks a rule, and the first one that it breaks."""
    _, numbers, heat, top_p, top_k, penalties, _, starts, answers, _, _, _, top_counts = tensors
    repetition, presence, frequency = penalties.unbind(1)
    histories = starts.diff()
    kept = torch.stack(
        (
            (numbers >= 0) & (numbers < 1),
            (heat >= 0) & heat.isfinite(),
            (top_p >= 0) & (top_p <= 1),
            top_k >= 0,
            (repetition > 0) & repetition.isfinite(),
            presence.isfinite() & frequency.isfinite(),
            (answers >= 0) & (answers <= histories),
            (top_counts >= -1) & (top_counts <= top_width),
        )
    )
    if bool(kept.all()):
        return
    r = int((~kept.all(0)).int().argmax())
    rules = (
        f"numbers must be in [0, 1); one is {numbers[r]:g}",
        f"temperatures must be finite and not negative; one is {heat[r]:g}",
        f"top_p must be in [0, 1]; one is {top_p[r]:g}",
        f"top_k must not be negative; one is {top_k[r]}",
        f"repetition penalties must be finite and above 0; one is {repetition[r]:g}",
        f"penalties must be finite; a row has {presence[r]:g} and {frequency[r]:g}",
        f"answer_starts must lie within the row's history of {histories[r]}; one is {answers[r]}",
        f"top_counts must be from -1 to top_width = {top_width}; one is {top_counts[r]}",
    )
    _require(False, rules[int((~kept[:, r]).int().argmax())])


def _require(condition: bool, rule: str) -> None:
    need(condition, _NAME, rule)


sample_tokens = define(
    _NAME,
    "(Tensor logits, Tensor numbers, Tensor temperatures, Tensor top_p, Tensor top_k, "
    "Tensor penalties, Tensor history, Tensor history_starts, Tensor answer_starts, "
    "Tensor bias_ids, Tensor bias_values, Tensor bias_starts, Tensor top_counts, SymInt top_width) "
    "-> (Tensor tokens, Tensor normalisers, Tensor top_ids)",
    sample_tokens_reference,
    _fake,
)
"""Draw one token from each row.

Args:
    logits: float32 [R, V].
    numbers: float64 [R] in [0, 1): what decides the draw.
    temperatures: float64 [R]; below 1e-5 the likeliest token is taken, the first of equals.
    top_p: float64 [R]; 1: off.
    top_k: int64 [R]; 0, or V and more: off.
    penalties: float64 [R, 3]: repetition (1: off), presence and frequency (0: off).
    history: int32 [H], for the penalties: of each row the prompt, then the answer.
    history_starts: int64 [R + 1], where each row's history begins.
    answer_starts: int64 [R], where in its history the answer begins, which alone presence and
        frequency count.
    bias_ids, bias_values: int32 and float32 [B], added to the logits before all else.
    bias_starts: int64 [R + 1], where each row's biases begin.
    top_counts: int64 [R], how many likeliest tokens to list; 0: the normaliser alone; -1: neither.
    top_width: N, at least every top_count.

Returns:
    tokens int64 [R], `BROKEN` where there is none; normalisers float64 [R], the log of the sum of
    exp(logits) before bias, penalties and temperature, NaN where not asked for; top_ids int64
    [R, N], ids of the largest logits, largest first, ties by rising id, then -1.
"""
