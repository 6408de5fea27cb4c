"""Loss and gradient of a micro-batch of packed rows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from native_ops.loss_head import loss_head
from train.data.plan import PackedBatch
from train.model.adapters import causal_of
from train.model.packed_attention import STARTS

# configuration keys of heads that do more than multiply
_CHANGES_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class Computer:
    """Forward and backward passes of a model with a language head.

    Args:
        model: In training mode; its attention is `train.model.packed_attention`.
        device: Where it is.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._causal = causal_of(model)
        self._device = device
        self._body = getattr(self._causal, self._causal.base_model_prefix)
        head = self._causal.get_output_embeddings()
        config = self._causal.config
        self._plain_head: torch.Tensor | None = None
        if (
            type(head) is torch.nn.Linear
            and head.bias is None
            and all(getattr(config, key, None) in (None, 1.0) for key in _CHANGES_LOGITS)
        ):
            self._plain_head = head.weight

    def set_training(self, training: bool) -> bool:
        """Dropout on or off; returns how it was."""
        before = bool(self._model.training)
        self._model.train(training)
        return before

    def loss_sum(self, batch: PackedBatch) -> torch.Tensor:
        """Summed cross-entropy of the supervised tokens, differentiable."""
        tokens = torch.from_numpy(batch.tokens).to(self._device, torch.int64)[None]
        positions = torch.from_numpy(batch.positions).to(self._device, torch.int64)[None]
        places = torch.from_numpy(batch.places).to(self._device)
        targets = torch.from_numpy(batch.targets).to(self._device)
        given = {
            "input_ids": tokens,
            "position_ids": positions,
            "use_cache": False,
            STARTS: batch.cu_seqlens.tolist(),
        }
        if self._plain_head is None:
            # what else the head does is the model's own business
            logits = self._causal(**given, logits_to_keep=places).logits[0]
            return F.cross_entropy(logits.float(), targets, reduction="sum")
        hidden = self._body(**given).last_hidden_state[0]
        loss, _ = loss_head(hidden[places], self._plain_head, targets, reduction="sum")
        return loss

    def backward(self, batch: PackedBatch) -> float:
        """Add the gradient of `loss_sum` to the parameters' `.grad`; returns the loss."""
        if not len(batch.places):
            return 0.0
        loss = self.loss_sum(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())
