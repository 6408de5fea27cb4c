"""What a step minimises: sums over micro-batches, and what they are divided by.

Sums are added over micro-batches, shards and workers in a fixed order, and divided once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from train.data.plan import MicroBatch, Step, pack
from train.data.tokenized import TokenizedData
from train.loop.compute import Computer


class Objective(Protocol):
    """A loss over micro-batches.

    Attributes:
        measures: What is summed beside the loss; the log has their means.
    """

    measures: Sequence[str]

    def units(self, step: Step) -> int:
        """What the sums of a step are divided by."""
        ...

    def backward(self, batch: MicroBatch) -> Sequence[float]:
        """Add the gradient of the summed loss to the parameters' `.grad`.

        Returns:
            The summed loss, and the sums of `measures`.
        """
        ...

    def check_first(self, loss: float) -> None:
        """Look at the mean loss of the first step of a run.

        Raises:
            TrainingError: it cannot be right.
        """
        ...


class TokenLoss:
    """Cross-entropy of the supervised tokens.

    Args:
        computer: Of the model.
        data: The rows.
    """

    measures: Sequence[str] = ()

    def __init__(self, computer: Computer, data: TokenizedData) -> None:
        self._computer = computer
        self._data = data

    def units(self, step: Step) -> int:
        """Supervised tokens."""
        return step.supervised

    def backward(self, batch: MicroBatch) -> Sequence[float]:
        return (self._computer.backward(pack(self._data, batch)),)

    def check_first(self, loss: float) -> None:
        """Any loss may be right."""
