"""Preferences as what a training loop minimises."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ironcliw.errors import TrainingError
from train.data.plan import MicroBatch, Step
from train.data.tokenized import TokenizedData
from train.loop.compute import Computer
from train.preference.batch import pack_pairs
from train.preference.losses import LogProbs, first_loss, preference_loss
from train.preference.options import PreferenceOptions
from train.preference.reference import Reference, answer_logprobs

MEASURES = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy")
_FIRST_TOLERANCE = 0.02
"""Of the first loss, relative: what was computed in other batches is rounded otherwise."""


class PairLoss:
    """The loss of preferences, averaged over pairs.

    Args:
        computer: Of the trained model.
        data: Preferences.
        options: Of the loss.
        reference: Log-probabilities of the model before training; None: the loss needs none.
    """

    measures: Sequence[str] = MEASURES

    def __init__(
        self,
        computer: Computer,
        data: TokenizedData,
        options: PreferenceOptions,
        reference: Reference | None,
    ) -> None:
        self._computer = computer
        self._data = data
        self._options = options
        self._reference = reference

    def units(self, step: Step) -> int:
        """Pairs."""
        return len(step.rows)

    def backward(self, batch: MicroBatch) -> Sequence[float]:
        loss, sums, _ = self._forward(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return sums

    def measure(self, batch: MicroBatch) -> Sequence[float]:
        """As `backward`, without a gradient; the last sum is of the pairs whose chosen answer is
        the likelier one."""
        with torch.no_grad():
            _, sums, policy = self._forward(batch)
        return [*sums, float((policy.chosen > policy.rejected).sum())]

    def check_first(self, loss: float) -> None:
        """A model that is still its own reference has a known loss, such as ln 2.

        Raises:
            TrainingError: it has another one.
        """
        options = self._options
        wanted = first_loss(
            options.loss, beta=options.beta, label_smoothing=options.label_smoothing
        )
        if wanted is None or math.isclose(loss, wanted, rel_tol=_FIRST_TOLERANCE):
            return
        raise TrainingError(
            f"the first loss is {loss:.6g}, and that of a model which is its own reference is "
            f"{wanted:.6g} (loss {options.loss}, beta {options.beta:g}): the reference is of "
            "another model or other data; remove preference.reference_cache, and report this if "
            "there is none"
        )

    def _forward(self, batch: MicroBatch) -> tuple[torch.Tensor, list[float], LogProbs]:
        pairs = pack_pairs(self._data, batch)
        reference = None if self._reference is None else self._reference.of(pairs)
        policy = answer_logprobs(self._computer, pairs)
        lengths = torch.from_numpy(pairs.lengths).to(policy.chosen)
        options = self._options
        losses, rewards = preference_loss(
            options.loss,
            policy,
            reference,
            LogProbs(lengths[0::2], lengths[1::2]),
            beta=options.beta,
            label_smoothing=options.label_smoothing,
            gamma=options.gamma,
        )
        loss = losses.sum()
        margins = rewards.margins
        measured = (rewards.chosen, rewards.rejected, margins, (margins > 0).float())
        sums = [float(loss.detach()), *(float(each.sum()) for each in measured)]
        return loss, sums, policy
