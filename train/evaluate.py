"""Measures on rows that are not trained on: loss and perplexity, by the training's own passes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from train.config import TrainingConfig
from train.data.plan import MicroBatch, pack
from train.data.tokenized import TokenizedData
from train.loop.compute import Computer


class Evaluator:
    """Measures a model at the end of epochs.

    Args:
        computer: Of the model.
        data: The held-out rows; None: there are none.
        config: How often, and on how many rows.
        steps_per_epoch: Of the run.
    """

    def __init__(
        self,
        computer: Computer,
        data: TokenizedData | None,
        config: TrainingConfig,
        steps_per_epoch: int,
    ) -> None:
        self._computer = computer
        self._data = data
        self._options = config.evaluation
        self._most_tokens = config.micro_batch_tokens
        self._steps_per_epoch = steps_per_epoch

    def measure(
        self, step: int, steps: int, notice: Callable[[], bool] = lambda: False
    ) -> dict[str, float] | None:
        """Loss and perplexity of the supervised tokens.

        Args:
            step: Optimizer steps done.
            steps: Of the whole run.
            notice: Whether to leave at once.

        Returns:
            None where nothing is due at this step, or a notice came.
        """
        epoch, inside = divmod(step, self._steps_per_epoch)
        every = self._options.every_epochs
        due = step in (0, steps) or (inside == 0 and every > 0 and epoch % every == 0)
        if self._data is None or not len(self._data) or not due:
            return None
        total, count = 0.0, 0
        model_mode = self._computer.set_training(False)
        try:
            for batch in self._batches(self._data):
                if notice():
                    return None
                with torch.no_grad():
                    total += float(self._computer.loss_sum(pack(self._data, batch)))
                count += batch.supervised
        finally:
            self._computer.set_training(model_mode)
        loss = total / max(1, count)
        return {"eval_loss": loss, "perplexity": math.exp(min(loss, 700.0))}

    def _batches(self, data: TokenizedData) -> list[MicroBatch]:
        """The first rows in order, as many together as a micro-batch takes."""
        lengths, supervised = data.lengths, data.supervised_counts
        found: list[MicroBatch] = []
        rows: list[int] = []
        for row in range(min(len(data), self._options.max_rows)):
            if rows and sum(int(lengths[each]) for each in rows) + lengths[row] > self._most_tokens:
                found.append(_batch(rows, lengths, supervised))
                rows = []
            rows.append(row)
        return [*found, _batch(rows, lengths, supervised)] if rows else found


def _batch(rows: list[int], lengths: object, supervised: object) -> MicroBatch:
    import numpy as np

    at = np.array(rows)
    return MicroBatch(
        tuple(rows), int(np.asarray(lengths)[at].sum()), int(np.asarray(supervised)[at].sum())
    )
