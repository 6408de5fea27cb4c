"""Questions about a classifier's own labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.catalog import Catalog
from ironcliw.errors import RequestError
from ironcliw.settings import Settings
from serve.decisions.classifier import ClassifierMethod, class_probabilities
from serve.decisions.logits import SequenceClassifiers
from serve.decisions.questions import Option, Options, Question
from serve.engines.protocol import PackedTokens
from serve.host import Computed

LOGITS = np.log(np.array([0.5, 0.3, 0.2], np.float32))
CHOICE = Question("choice", "c", "What?", (Option("travel"), Option("music")))


class Variant:
    """Answers the same logits to every text."""

    name = "test"

    def __init__(self) -> None:
        self.sent: list[int] = []

    async def classify(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        self.sent.append(len(batch.lengths))
        return Computed(np.tile(LOGITS, (len(batch.lengths), 1)), 0.0, "n", "cpu", "float32")

    async def class_labels(self, model_id: str, deadline: float) -> tuple[str, ...]:
        return ("music", "travel", "food")


@pytest.fixture
def variant() -> Any:
    return Variant()


@pytest.fixture
async def method(variant: Any, tmp_path: Path) -> Any:
    settings = Settings(models={"m": {"source": "fake:3", "task": "classifier"}})
    source = SequenceClassifiers(Catalog(settings.models), settings.serve, variant, tmp_path)
    yield ClassifierMethod(source)
    await source.close()


async def ask(method: Any, *questions: Question) -> Any:
    return await method.estimate("m", "a text", questions, Options("{}"), None)


async def test_probabilities_are_those_of_the_options_given(method: Any, variant: Any) -> None:
    predicate = Question("predicate", "p", "food")
    found = await ask(method, CHOICE, predicate)
    choice, plain = found.estimates
    assert choice.probabilities == pytest.approx([0.3 / 0.8, 0.5 / 0.8])
    assert choice.fit == pytest.approx(0.8)
    assert choice.threshold is None
    assert plain.probabilities == pytest.approx([0.2])
    # one pass and its tokens, however many questions
    assert variant.sent == [1]
    assert found.tokens == 2


async def test_options_that_are_no_labels(method: Any) -> None:
    asked = Question("choice", None, "?", (Option("music"), Option("sport")), "questions[3]")
    with pytest.raises(
        RequestError, match=r"questions\[3\]: 'sport' is not a label of m.*music, travel, food"
    ) as caught:
        await ask(method, asked)
    assert caught.value.param == "questions[3]"
    with pytest.raises(RequestError, match="'It is warm' is not a label of m, and a classifier"):
        await ask(method, Question("predicate", None, "It is warm"))


@pytest.mark.parametrize(
    ("problem", "labels", "expected"),
    [
        (None, ("a", "b"), [0.5, 0.5]),
        ("multi_label_classification", ("a", "b"), [0.7310586, 0.7310586]),
        (None, ("a",), [0.7310586]),
    ],
)
def test_classes_that_do_not_exclude_each_other_have_sigmoids(
    problem: str | None, labels: tuple[str, ...], expected: list[float]
) -> None:
    class Encoder:
        config = {"problem_type": problem}  # noqa: RUF012

    encoder: Any = Encoder()
    encoder.labels = labels
    found = class_probabilities(encoder, np.ones((1, len(labels)), np.float32))
    assert found[0] == pytest.approx(expected)


def test_a_model_that_estimates_a_number_is_refused() -> None:
    class Encoder:
        config = {"problem_type": "regression"}  # noqa: RUF012
        labels = ("LABEL_0",)

    encoder: Any = Encoder()
    with pytest.raises(RequestError, match="trained to estimate a number"):
        class_probabilities(encoder, np.ones((1, 1), np.float32))
