"""Decisions: which of some labels a model holds for the likeliest answer.

A label's score is the log-probability of all its tokens, the end of the turn included, so that
"cancel" and "cancel a booking" are told apart. The labels of a row share its prompt: they are
branches of one sequence, each of which sees the prompt and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ironcliw.errors import SettingsError
from train.data.plan import PackedBatch
from train.data.tokenized import TokenizedData
from train.evaluation.options import EvaluationOptions
from train.evaluation.rows import Question, Tokens, answers, question, without_end
from train.tokenizer import TrainingTokenizer

MOST_LABELS = 1000


@dataclass(frozen=True, slots=True)
class Branches:
    """Some labels after one prompt.

    Attributes:
        batch: One sequence; each token of a label is a place of it, foretold by the one before.
        ends: Where the prompt ends, and then each branch, the last at the sequence's end.
        counts: Tokens of each label.
    """

    batch: PackedBatch
    ends: tuple[int, ...]
    counts: tuple[int, ...]


def find_labels(
    options: EvaluationOptions,
    tokenizer: TrainingTokenizer | None,
    held_out: TokenizedData,
    train: TokenizedData,
) -> list[Tokens]:
    """The labels to choose from, as answers in tokens.

    A label that stands in the data has the tokens that it has there; another one is encoded as it
    is, with what precedes and ends the first answer that is held out.

    Args:
        options: Which labels.
        tokenizer: Needed where they are given as texts.
        held_out: Rows that are measured on.
        train: Rows whose answers are labels, too.

    Raises:
        SettingsError: there is one label only, or too many; or a row that is held out has an answer
            that is no label.
    """
    measured = range(min(len(held_out), options.max_rows))
    expected = [question(held_out, index).answer for index in measured]
    known = dict.fromkeys([*expected, *answers(train)])
    if options.labels == "data":
        found = sorted(known)
        if not 2 <= len(found) <= MOST_LABELS:
            raise SettingsError(
                f"evaluation.metrics has decision_accuracy, and the data has {len(found)} "
                f"different answers; 2 to {MOST_LABELS} can be labels: name them in "
                "evaluation.labels, or measure something else"
            )
        return found
    assert tokenizer is not None, "labels that are given as texts need the model's tokenizer"
    found = _of_texts(options.labels, list(known), tokenizer)
    for index, answer in zip(measured, expected, strict=True):
        if answer not in found:
            raise SettingsError(
                f"the answer of {held_out.source(index)} is "
                f"{tokenizer.text(without_end(answer, tokenizer))!r}, which is none of the "
                f"{len(found)} evaluation.labels; add it, or mend the row"
            )
    return found


def branches(asked: Question, labels: Sequence[Tokens], most_tokens: int) -> list[Branches]:
    """Labels after a prompt, as many together as a micro-batch takes."""
    found: list[list[Tokens]] = []
    room = 0
    for label in labels:
        # what the last token foretells is not asked for
        length = len(label) - 1
        if not found or length > room:
            found.append([])
            room = most_tokens - len(asked.prompt)
        found[-1].append(label)
        room -= length
    return [_branches(asked.prompt, some) for some in found]


def _branches(prompt: Tokens, labels: Sequence[Tokens]) -> Branches:
    tokens, positions = list(prompt), list(range(len(prompt)))
    places: list[int] = []
    ends = [len(prompt)]
    for label in labels:
        places += [len(prompt) - 1, *range(len(tokens), len(tokens) + len(label) - 1)]
        tokens += label[:-1]
        positions += range(len(prompt), len(prompt) + len(label) - 1)
        ends.append(len(tokens))
    batch = PackedBatch(
        np.array(tokens, np.int32),
        np.array(positions, np.int32),
        np.array([0, len(tokens)], np.int32),
        len(tokens),
        np.array(places, np.int64),
        np.array([token for label in labels for token in label], np.int64),
    )
    return Branches(batch, tuple(ends), tuple(len(label) for label in labels))


def _of_texts(
    texts: Sequence[str], known: Sequence[Tokens], tokenizer: TrainingTokenizer
) -> list[Tokens]:
    by_text = {tokenizer.text(without_end(each, tokenizer)).strip(): each for each in known}
    first = known[0]
    kept = without_end(first, tokenizer)
    end, text = first[len(kept) :], tokenizer.text(kept)
    before = text[: len(text) - len(text.lstrip())]
    labels = []
    for label in dict.fromkeys(each.strip() for each in texts):
        encoded = tokenizer.encode([before + label], special=False)[0]
        labels.append(by_text.get(label, (*encoded, *end)))
    return labels
