"""What moved a learned policy's score of its choice over the next best one, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from rl.effects import EFFECTS
from rl.features import CONTEXT, OPTION
from rl.neural import Learned, residuals
from rl.policy_file import Array
from rl.schema import DIGEST

COST = "expected cost"
"""What the base believes of the two, the score that a learned one starts from."""
_MOST = 5
_LEAST = 1e-6  # of scores

Moved = tuple[float, str]
"""(scores, name): by how much the difference would be smaller without it."""


def mattered(details: Mapping[str, Any], learned: Callable[[str], Learned | None]) -> list[Moved]:
    """Of a decision's row, what mattered most first; empty where no learned policy weighed it.

    What the base expects and what effects on others are learned to cost are parts of the
    difference. Of a network a feature's part is the change of the difference as the feature is put
    to what it was on average in training, or of an option to the mean of the two.

    Args:
        details: Of the row.
        learned: The policy of a digest; None where its file is not there any more.
    """
    scores = details.get("scores") or []
    known = [index for index, score in enumerate(scores) if score is not None]
    if len(known) < 2 or not details.get("policy_hash"):
        return []
    policy = learned(details["policy_hash"])
    if policy is None or details.get("schema") != (policy.policy.schema or DIGEST):
        return []
    best, other = sorted(known, key=lambda index: -scores[index])[:2]
    of_effects = list(_of_effects(policy, details, best, other))
    network = _Network(policy, details, best, other)
    rest = scores[best] - scores[other] - network.gap - sum(part for part, _ in of_effects)
    found = [(rest, COST), *of_effects, *network.parts()]
    found.sort(key=lambda one: -abs(one[0]))
    return [one for one in found[:_MOST] if abs(one[0]) > _LEAST]


def _of_effects(
    policy: Learned, details: Mapping[str, Any], best: int, other: int
) -> Iterable[Moved]:
    weights, rows = policy.policy.effects, details.get("effects")
    if weights is None or rows is None:  # of a release that did not log them
        return []
    differs = np.array(rows[other]) - np.array(rows[best])
    parts = differs * weights / policy.policy.tau
    return [(float(part), f"effect {name}") for part, name in zip(parts, EFFECTS, strict=True)]


class _Network:
    """What a policy's network adds to the difference of two options."""

    def __init__(self, policy: Learned, details: Mapping[str, Any], best: int, other: int) -> None:
        rows = details["option_features"]
        self._policy = policy.policy
        self._context = np.array(details["context"], dtype=np.float32)
        self._pair = np.array([rows[best], rows[other]], dtype=np.float32)
        self.gap = self._gap(self._context, self._pair)

    def parts(self) -> Iterable[Moved]:
        """Of each feature."""
        for index, name in enumerate(CONTEXT):
            without = self._context.copy()
            without[index] = self._policy.guard.mean[index]
            yield self.gap - self._gap(without, self._pair), name
        for index, name in enumerate(OPTION):
            alike = self._pair.copy()
            alike[:, index] = self._pair[:, index].mean()
            yield self.gap - self._gap(self._context, alike), f"option's {name}"

    def _gap(self, context: Array, pair: Array) -> float:
        found = residuals(self._policy.layers, context, pair)
        return float(found[0] - found[1])
