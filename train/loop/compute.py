"""Loss and gradient of a micro-batch of packed rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ironcliw.errors import UnsupportedError
from native_ops.loss_head import token_logprobs
from train.data.plan import PackedBatch
from train.model.adapters import causal_of
from train.model.packed_attention import STARTS, TREE

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


class Batch(Protocol):
    """T positions, of which S foretell a supervised token; see `PackedBatch`."""

    @property
    def tokens(self) -> npt.NDArray[np.int32]: ...
    @property
    def positions(self) -> npt.NDArray[np.int32]: ...
    @property
    def places(self) -> npt.NDArray[np.int64]: ...
    @property
    def targets(self) -> npt.NDArray[np.int64]: ...


class Computer:
    """Forward and backward passes of a model with a language head.

    Args:
        model: In training mode; its attention is `train.model.packed_attention`.
        device: Where it is.

    Attributes:
        device: Where it is.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._causal = causal_of(model)
        self.device = device
        self._body = getattr(self._causal, self._causal.base_model_prefix)
        head = self._causal.get_output_embeddings()
        config = self._causal.config
        # its weight is looked up at each call: a sharded model has another whenever it is gathered
        self._plain_head: torch.nn.Linear | None = None
        if (
            type(head) is torch.nn.Linear
            and head.bias is None
            and all(getattr(config, key, None) in (None, 1.0) for key in _CHANGES_LOGITS)
        ):
            self._plain_head = head

    def set_training(self, training: bool) -> bool:
        """Dropout on or off; returns how it was."""
        before = bool(self._model.training)
        self._model.train(training)
        return before

    def loss_sum(self, batch: PackedBatch) -> torch.Tensor:
        """Summed cross-entropy of the supervised tokens, differentiable."""
        return -self.logprobs(batch, {STARTS: batch.cu_seqlens.tolist()}).sum()

    def logprobs(self, batch: Batch, attention: Mapping[str, Any]) -> torch.Tensor:
        """log p of the supervised tokens, float32 [S], differentiable.

        Args:
            batch: Positions and what they foretell.
            attention: What `train.model.packed_attention` is given by keyword.
        """
        given, places, targets = self._inputs(batch, attention)
        if self._plain_head is None:
            # what else the head does is the model's own business
            logits = self._causal(**given, logits_to_keep=places).logits[0]
            return -F.cross_entropy(logits.float(), targets, reduction="none")
        hidden = self._body(**given).last_hidden_state[0]
        return token_logprobs(hidden[places], self._plain_head.weight, targets)

    @contextlib.contextmanager
    def without_adapters(self) -> Iterator[None]:
        """The model that training began with, while this is open.

        Raises:
            UnsupportedError: its own weights are trained, so it is no longer there.
        """
        if self._causal is self._model:
            raise UnsupportedError(
                "all weights are trained, so the model does not hold what it was; set "
                "preference.reference to precomputed, or use_lora to true"
            )
        with self._model.disable_adapter():
            yield

    def backward(self, batch: PackedBatch) -> float:
        """Add the gradient of `loss_sum` to the parameters' `.grad`; returns the loss."""
        if not len(batch.places):
            return 0.0
        loss = self.loss_sum(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    @torch.no_grad()
    def examine(
        self, batch: PackedBatch, *, best: bool = False, tree: Sequence[int] | None = None
    ) -> Examined:
        """What the model says of a batch, without gradients.

        Args:
            batch: The rows.
            best: Look for the likeliest tokens, too.
            tree: Where a prompt ends and the ends after it, of which each sees the prompt and
                itself; the batch is then that one row.
        """
        attention = {STARTS: batch.cu_seqlens.tolist()} if tree is None else {TREE: list(tree)}
        given, places, targets = self._inputs(batch, attention)
        if self._plain_head is None:
            logits = self._causal(**given, logits_to_keep=places).logits[0].float()
            logprobs = -F.cross_entropy(logits, targets, reduction="none")
            likeliest = logits.argmax(-1) if best else None
        else:
            hidden = self._body(**given).last_hidden_state[0][places]
            logprobs = token_logprobs(hidden, self._plain_head.weight, targets)
            likeliest = self._likeliest(hidden) if best else None
        return Examined(
            -float(logprobs.sum()),
            logprobs.cpu().numpy(),
            None if likeliest is None else (likeliest == targets).cpu().numpy(),
        )

    def _likeliest(self, hidden: torch.Tensor) -> torch.Tensor:
        """The token of the largest logit for hidden [S, D]; int64 [S]."""
        assert self._plain_head is not None
        head = self._plain_head.weight
        return torch.cat([F.linear(some, head).argmax(-1) for some in torch.split(hidden, _ROWS)])

    def _inputs(
        self, batch: Batch, attention: Mapping[str, Any]
    ) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
        """What the model is given, and the places and targets of its predictions."""
        tokens = torch.from_numpy(batch.tokens).to(self.device, torch.int64)[None]
        positions = torch.from_numpy(batch.positions).to(self.device, torch.int64)[None]
        given = {
            "input_ids": tokens,
            "position_ids": positions,
            "use_cache": False,
            **attention,
        }
        places = torch.from_numpy(batch.places).to(self.device)
        return given, places, torch.from_numpy(batch.targets).to(self.device)
