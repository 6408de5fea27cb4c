"""Measures on rows that are not trained on, by the training's own model and passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from train.config import TrainingConfig
from train.data.plan import in_order, pack
from train.data.tokenized import TokenizedData
from train.evaluation.answers import essence
from train.evaluation.generation import InterruptedEvaluationError, generate
from train.evaluation.labels import branches, find_labels
from train.evaluation.options import EvaluationOptions
from train.evaluation.rows import Tokens, answered, question, without_end
from train.loop.compute import Computer
from train.tokenizer import TrainingTokenizer

Measures = dict[str, float | int]


class Evaluator:
    """Measures a model at the end of epochs.

    Args:
        computer: Of the model.
        model: transformers' or peft's, in which answers are generated.
        data: The held-out rows.
        train: Those that are trained on: their answers are labels, too.
        config: What, how often, and on how many rows.
        steps_per_epoch: Of the run.
        tokenizer: Of the model; needed where texts are compared.

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
    ) -> None:
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
            None where nothing is due at this step, or a notice came.
        """
        if not self._rows or not is_due(self._options, step, steps, self._steps_per_epoch):
            return None
        was_training = self._computer.set_training(False)
        try:
            return self._all(notice)
        except InterruptedEvaluationError:
            return None
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
        total, count, right = 0.0, 0, 0
        for batch in in_order(self._data, self._most_tokens, self._rows):
            _leave_if(notice)
            packed = pack(self._data, batch)
            seen = self._computer.examine(packed, best=exact)
            total += seen.loss
            count += batch.supervised
            if seen.best is not None:
                right += sum(answered(packed, seen.best))
        loss = total / max(1, count)
        found: Measures = {"eval_loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if exact:
            found["exact_match"] = right / self._rows
        return found

    def _generated_matches(self, notice: Callable[[], bool]) -> float:
        tokenizer = self._tokenizer
        assert tokenizer is not None, "texts are compared, and there is no tokenizer"
        asked = [question(self._data, row) for row in range(self._rows)]
        answers = generate(
            self._model,
            [one.prompt for one in asked],
            ends=tokenizer.end_tokens,
            most_new=self._options.max_new_tokens,
            most_tokens=self._most_tokens,
            notice=notice,
        )
        find = essence(self._options)
        right = 0
        for one, answer in zip(asked, answers, strict=True):
            expected = find(tokenizer.text(without_end(one.answer, tokenizer)))
            right += expected is not None and find(tokenizer.text(answer)) == expected
        return right / self._rows

    def _decisions(self, notice: Callable[[], bool]) -> float:
        right = 0
        for row in range(self._rows):
            asked = question(self._data, row)
            scores: list[float] = []
            for some in branches(asked, self._labels, self._most_tokens):
                _leave_if(notice)
                seen = self._computer.examine(some.batch, tree=some.ends)
                borders = np.cumsum(some.counts)[:-1]
                scores += [float(part.sum()) for part in np.split(seen.logprobs, borders)]
            right += self._labels[int(np.argmax(scores))] == asked.answer
        return right / self._rows


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


def _leave_if(notice: Callable[[], bool]) -> None:
    if notice():
        raise InterruptedEvaluationError
