"""Measures on rows that are not trained on, by the training's own model and passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from train.config import TrainingConfig
from train.data.plan import MicroBatch, in_order, pack
from train.data.tokenized import TokenizedData
from train.evaluation.answers import essence
from train.evaluation.generation import generate, groups
from train.evaluation.labels import branches, find_labels
from train.evaluation.options import EvaluationOptions
from train.evaluation.rows import Tokens, answered, question, without_end
from train.loop.compute import Computer
from train.loop.reduce import Alone, Group
from train.loop.shares import InterruptedEvaluationError, sum_in_shares
from train.tokenizer import TrainingTokenizer

Measures = dict[str, float | int]


class Evaluator:
    """Measures a model at the end of epochs; the workers of a run share the rows.

    Args:
        computer: Of the model.
        model: transformers' or peft's, in which answers are generated.
        data: The held-out rows.
        train: Those that are trained on: their answers are labels, too.
        config: What, how often, and on how many rows.
        steps_per_epoch: Of the run.
        tokenizer: Of the model; needed where texts are compared.
        group: The workers; each has an evaluator, and all measure at the same steps.

    Raises:
        SettingsError: as `find_labels`.
    """

    def __init__(
        self,
        computer: Computer,
        model: Any,
        data: TokenizedData,
        train: TokenizedData,
        config: TrainingConfig,
        steps_per_epoch: int,
        tokenizer: TrainingTokenizer | None = None,
        group: Group | None = None,
    ) -> None:
        self._group = group or Alone()
        self._computer = computer
        self._model = model
        self._data = data
        self._options = config.evaluation
        self._most_tokens = config.micro_batch_tokens
        self._steps_per_epoch = steps_per_epoch
        self._tokenizer = tokenizer
        self._rows = min(len(data), self._options.max_rows)
        self._labels: list[Tokens] = []
        if "decision_accuracy" in self._options.metrics:
            self._labels = find_labels(self._options, tokenizer, data, train)

    def measure(
        self, step: int, steps: int, notice: Callable[[], bool] = lambda: False
    ) -> Measures | None:
        """All measures that the run asks for.

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
        if not self._rows or not is_due(self._options, step, steps, self._steps_per_epoch):
            return None
        was_training = self._computer.set_training(False)
        try:
            return self._all(notice)
        finally:
            self._computer.set_training(was_training)

    def _all(self, notice: Callable[[], bool]) -> Measures:
        found = self._loss(notice)
        if self._options.generates:
            found["exact_match"] = self._generated_matches(notice)
        if self._labels:
            found["decision_accuracy"] = self._decisions(notice)
        return {**found, "eval_rows": self._rows}

    def _loss(self, notice: Callable[[], bool]) -> Measures:
        exact = "exact_match" in self._options.metrics and not self._options.generates

        def examined(batch: MicroBatch) -> tuple[float, float]:
            packed = pack(self._data, batch)
            seen = self._computer.examine(packed, best=exact)
            return seen.loss, 0 if seen.best is None else sum(answered(packed, seen.best))

        batches = in_order(self._data, self._most_tokens, self._rows)
        total, right = sum_in_shares(self._group, batches, examined, 2, notice)
        loss = total / max(1, sum(batch.supervised for batch in batches))
        found: Measures = {"eval_loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if exact:
            found["exact_match"] = right / self._rows
        return found

    def _generated_matches(self, notice: Callable[[], bool]) -> float:
        tokenizer = self._tokenizer
        assert tokenizer is not None, "texts are compared, and there is no tokenizer"
        asked = [question(self._data, row) for row in range(self._rows)]
        prompts = [one.prompt for one in asked]
        most_new, find = self._options.max_new_tokens, essence(self._options)

        def generated(rows: list[int]) -> tuple[float]:
            answers = generate(
                self._model,
                [prompts[row] for row in rows],
                ends=tokenizer.end_tokens,
                most_new=most_new,
                most_tokens=self._most_tokens,
                notice=notice,
            )
            right = 0
            for row, answer in zip(rows, answers, strict=True):
                expected = find(tokenizer.text(without_end(asked[row].answer, tokenizer)))
                right += expected is not None and find(tokenizer.text(answer)) == expected
            return (right,)

        pieces = groups(prompts, most_new, self._most_tokens)
        (total,) = sum_in_shares(self._group, pieces, generated, 1, notice)
        return total / self._rows

    def _decisions(self, notice: Callable[[], bool]) -> float:
        def decided(row: int) -> tuple[float]:
            asked = question(self._data, row)
            scores: list[float] = []
            for some in branches(asked, self._labels, self._most_tokens):
                if scores and notice():
                    raise InterruptedEvaluationError
                seen = self._computer.examine(some.batch, tree=some.ends)
                borders = np.cumsum(some.counts)[:-1]
                scores += [float(part.sum()) for part in np.split(seen.logprobs, borders)]
            return (self._labels[int(np.argmax(scores))] == asked.answer,)

        (total,) = sum_in_shares(self._group, range(self._rows), decided, 1, notice)
        return total / self._rows


def is_due(options: EvaluationOptions, step: int, steps: int, steps_per_epoch: int) -> bool:
    """Whether to measure now: before the first step, at the end, and every so many epochs.

    Args:
        options: How often.
        step: Optimizer steps done.
        steps: Of the whole run.
        steps_per_epoch: Of the run.
    """
    epoch, inside = divmod(step, steps_per_epoch)
    every = options.every_epochs
    return step in (0, steps) or (inside == 0 and every > 0 and epoch % every == 0)
