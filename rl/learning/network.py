"""The network that corrects expected costs, fitted to labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl.features import CONTEXT, OPTION
from rl.learning.labels import Labels, targets
from rl.learning.plan import Training
from rl.policy_file import Layer

WARM_SHARE = 0.05  # of the steps, in which the rate rises
SHARPNESS = 4.0  # of a sampled choice: options that differ by tau / 4 are e times as likely


class Scorer(nn.Module):
    """Scores options one by one: (context, option) to a number, 0 for all at the start.

    Args:
        widths: Of the hidden layers.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [len(CONTEXT) + len(OPTION), *widths]
        self.hidden = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)
        )
        self.last = nn.Linear(sizes[-1], 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, context: Tensor, options: Tensor) -> Tensor:
        """What is added to scores.

        Args:
            context: (B, len(CONTEXT)).
            options: (B, S, len(OPTION)).

        Returns:
            (B, S).
        """
        slots = options.shape[1]
        found = torch.cat([context.unsqueeze(1).expand(-1, slots, -1), options], dim=-1)
        for layer in self.hidden:
            found = torch.relu(layer(found))
        scores: Tensor = self.last(found).squeeze(-1)
        return scores

    def layers(self) -> tuple[Layer, ...]:
        """For a policy file."""
        return tuple(
            (
                np.ascontiguousarray(layer.weight.detach().numpy().T, dtype=np.float32),
                layer.bias.detach().numpy().astype(np.float32),
            )
            for layer in (*self.hidden, self.last)
        )


def scorer_of(layers: Sequence[Layer]) -> Scorer:
    """The network of a policy file, to learn on."""
    scorer = Scorer([weight.shape[1] for weight, _ in layers[:-1]])
    with torch.no_grad():
        for layer, (weight, bias) in zip((*scorer.hidden, scorer.last), layers, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.T.copy()))
            layer.bias.copy_(torch.from_numpy(bias))
    return scorer


def averaged(members: Sequence[Sequence[Layer]]) -> tuple[Layer, ...]:
    """One network whose output is the mean of some of equal depth: their layers side by side."""
    depth = len(members[0])
    found: list[Layer] = []
    for number in range(depth):
        weights = [member[number][0] for member in members]
        biases = [member[number][1] for member in members]
        if number == depth - 1:
            mean = np.stack(biases).mean(axis=0).astype(np.float32)
            found.append((np.concatenate(weights, axis=0) / np.float32(len(members)), mean))
            continue
        weight = np.concatenate(weights, axis=1) if number == 0 else _diagonal(weights)
        found.append((weight, np.concatenate(biases)))
    return tuple(found)


def _diagonal(blocks: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    rows, columns = (sum(block.shape[axis] for block in blocks) for axis in (0, 1))
    found = np.zeros((rows, columns), dtype=np.float32)
    row = column = 0
    for block in blocks:
        found[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return found


def fit(labels: Labels, plan: Training, price: float, member: int) -> tuple[Scorer, float, float]:
    """Fit a network so that differences of scores are differences of what options cost.

    Days are weighed at random (Bayesian bootstrap), so that members differ; a tenth of them is kept
    for the errors that are returned.

    Args:
        labels: Of decisions.
        plan: How.
        price: By which a dollar for machines weighs more than another.
        member: Which of the averaged networks.

    Returns:
        The network, and the mean error on the days that were kept: of the expected costs alone, of
        the network.
    """
    random = np.random.default_rng([plan.seed, 3, member])
    torch.manual_seed(int(random.integers(2**31)))
    names, day = np.unique(labels.day, return_inverse=True)
    weights = torch.from_numpy(random.exponential(size=len(names)).astype(np.float32)[day])
    kept = (names % 10 == member % 10)[day]
    rows = np.flatnonzero(~kept) if kept.any() and not kept.all() else np.arange(len(labels))
    data = _Data(labels, plan, price)
    scorer = Scorer([plan.width, plan.width])
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=plan.rate, weight_decay=plan.decay)
    steps = plan.epochs * max(1, -(-len(rows) // plan.batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate, total_steps=steps + 1, pct_start=WARM_SHARE
    )
    before = data.error(scorer, kept)
    for _ in range(plan.epochs):
        shuffled = random.permutation(rows)
        for start in range(0, len(rows), plan.batch):
            batch = torch.from_numpy(shuffled[start : start + plan.batch])
            loss = (data.losses(scorer, batch) * weights[batch]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return scorer, before, data.error(scorer, kept)


class _Data:
    def __init__(self, labels: Labels, plan: Training, price: float) -> None:
        self._context = torch.from_numpy(labels.context)
        self._options = torch.from_numpy(labels.options)
        self._over = torch.from_numpy(labels.over / plan.tau)
        cost = targets(labels, plan, price).astype(np.float32)
        self._cost = torch.from_numpy(cost / np.float32(plan.tau))
        self._there = torch.from_numpy(labels.there)
        # so that gradients are of the size that they are cut at
        self._unit = plan.tau / plan.winsor

    def losses(self, scorer: Scorer, rows: Tensor) -> Tensor:
        """Of each decision, over its alternatives: squares, whose least is at the mean."""
        scores = scorer(self._context[rows], self._options[rows]) - self._over[rows]
        found = scores[:, :1] - scores[:, 1:]  # what an alternative is believed to cost more
        errors: Tensor = ((found - self._cost[rows, 1:]) * self._unit).square()
        losses: Tensor = (errors * self._there[rows, 1:]).sum(dim=1)
        return losses

    def error(self, scorer: Scorer, kept: npt.NDArray[np.bool_]) -> float:
        """Mean of the losses of some decisions; 0 without any."""
        rows = torch.from_numpy(np.flatnonzero(kept))
        with torch.no_grad():
            return float(self.losses(scorer, rows).mean()) if len(rows) else 0.0
