"""Losses of direct preference optimisation. Pure functions of log-probabilities.

With pi the trained model and ref the one that it started from, w the chosen and l the rejected
answer, log p summed over an answer's tokens:

    r_w = log pi(w) - log ref(w)    r_l = log pi(l) - log ref(l)    D = r_w - r_l    b = beta

    sigmoid       -log s(b D)                                          arXiv 2305.18290
    cdpo          -(1 - e) log s(b D) - e log s(-b D)                  Mitchell 2023
    robust        (-(1 - e) log s(b D) + e log s(-b D)) / (1 - 2 e)    arXiv 2403.00409
    ipo           (r_w / |w| - r_l / |l| - 1 / (2 b))^2                arXiv 2310.12036
    hinge         max(0, 1 - b D)                                      arXiv 2305.10425
    sigmoid_norm  -log s(b (r_w / |w| - r_l / |l|))
    simpo         -log s(b (log pi(w) / |w| - log pi(l) / |l|) - g)    arXiv 2405.14734

e is `label_smoothing`, the share of pairs that are thought to be the wrong way round; g is `gamma`.
IPO is averaged over the answers' lengths, as its authors do in practice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from train.preference.options import WITHOUT_REFERENCE, LossName


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Log-probabilities of pairs, each summed over an answer's tokens.

    Attributes:
        chosen: float [P].
        rejected: float [P].
    """

    chosen: torch.Tensor
    rejected: torch.Tensor


@dataclass(frozen=True, slots=True)
class Rewards:
    """b (log pi - log ref) of each answer, without a gradient: what is logged.

    Attributes:
        chosen: float [P].
        rejected: float [P].
    """

    chosen: torch.Tensor
    rejected: torch.Tensor

    @property
    def margins(self) -> torch.Tensor:
        """How much more the chosen answer is worth, [P]."""
        return self.chosen - self.rejected


def preference_loss(
    name: LossName,
    policy: LogProbs,
    reference: LogProbs | None,
    lengths: LogProbs,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> tuple[torch.Tensor, Rewards]:
    """The loss of each pair.

    Args:
        name: Which loss.
        policy: Of the trained model.
        reference: Of the model that it started from; None for `simpo` alone.
        lengths: Tokens of each answer, float [P].
        beta: How strongly the model is held to the reference.
        label_smoothing: Of `cdpo` and `robust`.
        gamma: Of `simpo`.

    Returns:
        float [P], not averaged, and the rewards; of `simpo`, which has no reference, b times the
        average log-probability of a token.
    """
    chosen, rejected = policy.chosen, policy.rejected
    if reference is not None and name not in WITHOUT_REFERENCE:
        chosen, rejected = chosen - reference.chosen, rejected - reference.rejected
    sums = LogProbs(chosen, rejected)
    if name in ("ipo", "sigmoid_norm", "simpo"):
        chosen, rejected = chosen / lengths.chosen, rejected / lengths.rejected
    worth = LogProbs(chosen, rejected) if name in WITHOUT_REFERENCE else sums
    rewards = Rewards((beta * worth.chosen).detach(), (beta * worth.rejected).detach())
    return _of_margin(name, chosen - rejected, beta, label_smoothing, gamma), rewards


def _of_margin(
    name: LossName, margin: torch.Tensor, beta: float, smoothing: float, gamma: float
) -> torch.Tensor:
    if name == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    if name == "hinge":
        return torch.relu(1 - beta * margin)
    right, wrong = -F.logsigmoid(beta * margin), -F.logsigmoid(-beta * margin)
    if name == "cdpo":
        return (1 - smoothing) * right + smoothing * wrong
    if name == "robust":
        return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
    if name == "simpo":
        return -F.logsigmoid(beta * margin - gamma)
    return right


def first_loss(name: LossName, *, beta: float, label_smoothing: float = 0.0) -> float | None:
    """The loss of a model that is still its own reference; None where that says nothing.

    Args:
        name: Which loss.
        beta: As for `preference_loss`.
        label_smoothing: As for `preference_loss`.
    """
    if name in WITHOUT_REFERENCE:
        return None
    nothing = torch.zeros(1, dtype=torch.float64)
    loss = float(_of_margin(name, nothing, beta, label_smoothing, 0.0))
    assert math.isfinite(loss)
    return loss
