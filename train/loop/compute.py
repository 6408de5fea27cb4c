"""Loss and gradient of a micro-batch of packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from native_ops.loss_head import loss_head, token_logprobs
from train.data.plan import PackedBatch
from train.model.adapters import causal_of
from train.model.packed_attention import BRANCHES, STARTS

# configuration keys of heads that do more than multiply
_CHANGES_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
_ROWS = 256
"""Positions whose logits are held at once when the likeliest token is looked for."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What a model says of the supervised tokens of a batch.

    Attributes:
        loss: Their summed cross-entropy.
        logprobs: float32 [S]; the log-probability of each.
        best: bool [S]; whether it is the likeliest token. None: it was not asked.
    """

    loss: float
    logprobs: npt.NDArray[np.float32]
    best: npt.NDArray[np.bool_] | None


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
        given, places, targets = self._inputs(batch)
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

    @torch.no_grad()
    def examine(
        self, batch: PackedBatch, *, best: bool = False, branches: Sequence[int] | None = None
    ) -> Examined:
        """What the model says of a batch, without gradients.

        Args:
            batch: The rows.
            best: Look for the likeliest tokens, too.
            branches: Where a prompt ends and the branches after it, of which each sees the prompt
                and itself; the batch is then that one row.
        """
        given, places, targets = self._inputs(batch)
        if branches is not None:
            # without starts it is no plain row for whoever computes plain rows
            del given[STARTS]
            given[BRANCHES] = list(branches)
        if self._plain_head is None:
            logits = self._causal(**given, logits_to_keep=places).logits[0].float()
            logprobs = -F.cross_entropy(logits, targets, reduction="none")
            likeliest = logits.argmax(-1) if best else None
        else:
            hidden = self._body(**given).last_hidden_state[0][places]
            logprobs = token_logprobs(hidden, self._plain_head, targets)
            likeliest = self._likeliest(hidden) if best else None
        return Examined(
            -float(logprobs.sum()),
            logprobs.cpu().numpy(),
            None if likeliest is None else (likeliest == targets).cpu().numpy(),
        )

    def _likeliest(self, hidden: torch.Tensor) -> torch.Tensor:
        """The token of the largest logit for hidden [S, D]; int64 [S]."""
        assert self._plain_head is not None
        head = self._plain_head
        return torch.cat([F.linear(some, head).argmax(-1) for some in torch.split(hidden, _ROWS)])

    def _inputs(self, batch: PackedBatch) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
        """What the model is given, and the places and targets of its predictions."""
        tokens = torch.from_numpy(batch.tokens).to(self._device, torch.int64)[None]
        positions = torch.from_numpy(batch.positions).to(self._device, torch.int64)[None]
        given = {
            "input_ids": tokens,
            "position_ids": positions,
            "use_cache": False,
            STARTS: batch.cu_seqlens.tolist(),
        }
        places = torch.from_numpy(batch.places).to(self._device)
        return given, places, torch.from_numpy(batch.targets).to(self._device)
