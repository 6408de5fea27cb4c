"""Measures of preferences that are not trained on."""

from __future__ import annotations

from collections.abc import Callable

from train.config import TrainingConfig
from train.data.plan import in_order
from train.data.tokenized import TokenizedData
from train.evaluation.evaluator import Measures, is_due
from train.loop.compute import Computer
from train.loop.reduce import Group
from train.loop.shares import sum_in_shares
from train.preference.objective import PairLoss


class PairEvaluator:
    """Measures a model on pairs, at the end of epochs; the workers of a run share them.

    Args:
        computer: Of the model.
        objective: Over the held-out pairs.
        data: Those pairs.
        config: How often, and on how many.
        steps_per_epoch: Of the run.
        group: The workers; each has an evaluator, and all measure at the same steps.
    """

    def __init__(
        self,
        computer: Computer,
        objective: PairLoss,
        data: TokenizedData,
        config: TrainingConfig,
        steps_per_epoch: int,
        group: Group,
    ) -> None:
        self._group = group
        self._computer = computer
        self._objective = objective
        self._options = config.evaluation
        self._steps_per_epoch = steps_per_epoch
        self._batches = in_order(data, config.micro_batch_tokens, config.evaluation.max_rows)

    def measure(
        self, step: int, steps: int, notice: Callable[[], bool] = lambda: False
    ) -> Measures | None:
        """Loss, rewards and accuracies.

        `reward_accuracy` is the share of pairs whose chosen answer has gained more, against the
        reference, than the rejected one: 0 before the first step. `preference_accuracy` is the
        share whose chosen answer is the likelier one to be written.

        Args:
            step: Optimizer steps done.
            steps: Of the whole run.
            notice: Whether to leave at once.

        Returns:
            None where nothing is due at this step.

        Raises:
            InterruptedEvaluationError: a notice came, to this worker or another.
            PeerLostError: another worker is gone.
        """
        if not self._batches or not is_due(self._options, step, steps, self._steps_per_epoch):
            return None
        was_training = self._computer.set_training(False)
        names = ("eval_loss", *self._objective.measures, "preference_accuracy")
        try:
            sums = sum_in_shares(
                self._group, self._batches, self._objective.measure, len(names), notice
            )
        finally:
            self._computer.set_training(was_training)
        count = sum(len(batch.rows) for batch in self._batches)
        means = {name: each / count for name, each in zip(names, sums, strict=True)}
        return {**means, "eval_rows": count}
