"""One step of a causal language model in one call: embedding, all layers, logits.

N tokens of a step over all its sequences, R rows of logits, V vocabulary. A row's bits depend on
its own sequence and its adapter alone: not on how its tokens were cut into steps, nor on what else
is in a step.
"""

from __future__ import annotations

import torch

from native_ops.decoder_reference import decoder_step_reference
from native_ops.operators import define


def _fake(
    weights: torch.Tensor,
    plan: torch.Tensor,
    cache: torch.Tensor,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    logit_rows: torch.Tensor,
    vocabulary: int,
    adapters: list[torch.Tensor],
    adapter_plans: list[torch.Tensor],
    row_adapters: torch.Tensor,
) -> torch.Tensor:
    return weights.new_empty((logit_rows.shape[0], vocabulary), dtype=torch.float32)


decoder_step = define(
    "decoder_step",
    "(Tensor weights, Tensor plan, Tensor(a!) cache, Tensor tokens, Tensor positions, "
    "Tensor slots, Tensor logit_rows, int vocabulary, Tensor[] adapters, Tensor[] adapter_plans, "
    "Tensor row_adapters) -> Tensor",
    decoder_step_reference,
    _fake,
)
"""Run a step and give the logits after the tokens `logit_rows`, float32 [R, V].

weights uint8 and plan int64, of native_ops/decoder_plan.py, not changed; cache float16
[slots * slot_elements], whose new positions are written; tokens, positions and slots int32 [N]: a
slot's tokens stand together (slots in any order) and their positions rise by one; logit_rows int32
[R], rising, R may be 0. Each row may be under an adapter (LoRA) of native_ops/decoder_adapters.py:
`adapters` and `adapter_plans` are the two tensors of each, row_adapters int32 [N] says which one a
row is under, -1: none; without adapters it is empty. Every adapter's weights are read once.

RuntimeError: an argument that breaks these rules, a plan that does not fit `weights` or `cache`,
or an id, position or slot outside the plan's; nothing has been written then.
"""
