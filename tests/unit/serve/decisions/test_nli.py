"""Entailment scores: the pipeline's reading of logits, and questions of every kind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.catalog import Catalog
from ironcliw.errors import RequestError, RequestTooLargeError
from ironcliw.settings import Settings
from serve.decisions.answers import Estimates
from serve.decisions.logits import SequenceClassifiers
from serve.decisions.nli import NliMethod, entailment_index, label_probabilities
from serve.decisions.questions import Option, Options, Question
from serve.engines.fake import FakeClassifier
from serve.engines.protocol import PackedTokens
from serve.host import Computed

TEMPLATE = "This example is {}."
CHOICE = Question("choice", "c", "What?", (Option("music"), Option("travel"), Option("food")))
SCORE = Question("score", "s", "How much?", (Option("low"), Option("high")))
PREDICATE = Question("predicate", "p", "It is about music.")


class Variant:
    """Computes with the fake classifier and counts what it was sent."""

    name = "test"

    def __init__(self, source: str) -> None:
        self.engine = FakeClassifier(source)
        self.sent: list[int] = []

    async def classify(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        self.sent.append(len(batch.lengths))
        return Computed(self.engine.classify(batch), 0.001, "node-1", "cpu", "float32")

    async def class_labels(self, model_id: str, deadline: float) -> tuple[str, ...]:
        return self.engine.labels


def classifiers(tmp_path: Path, labels: str, task: str = "nli", **serve: Any) -> Any:
    source = f"fake:{len(labels.split('|'))}?labels={labels}"
    settings = Settings(models={"m": {"source": source, "task": task}}, serve=serve)
    variant: Any = Variant(source)
    found = SequenceClassifiers(Catalog(settings.models), settings.serve, variant, tmp_path)
    return found, variant


async def ask(method: Any, *questions: Question, multi_label: bool = False) -> Estimates:
    options = Options(TEMPLATE, multi_label)
    found: Estimates = await method.estimate("m", "play a song", questions, options, None)
    return found


@pytest.mark.parametrize(
    ("labels", "index"),
    [
        (("contradiction", "neutral", "entailment"), 2),
        (("ENTAILMENT", "NEUTRAL", "CONTRADICTION"), 0),
        (("not_entailment", "entailed"), 1),
        (("LABEL_0", "LABEL_1"), -1),
    ],
)
def test_the_entailment_class_is_found_by_name(labels: tuple[str, ...], index: int) -> None:
    assert entailment_index(labels) == index


class TestProbabilities:
    LOGITS = np.array([[0.0, 5.0, 1.0], [2.0, 0.0, 1.0]], np.float32)

    def test_one_of_the_labels_is_true(self) -> None:
        found = label_probabilities(self.LOGITS, 2, multi_label=False)
        assert found == pytest.approx([0.5, 0.5])

    def test_each_label_by_itself_leaves_neutral_out(self) -> None:
        found = label_probabilities(self.LOGITS, 2, multi_label=True)
        assert found == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])

    def test_a_single_label_is_read_by_itself(self) -> None:
        found = label_probabilities(self.LOGITS[:1], 2, multi_label=False)
        assert found == pytest.approx([1 / (1 + np.exp(-1))])

    def test_entailment_first_takes_the_last_class_as_its_opposite(self) -> None:
        found = label_probabilities(self.LOGITS, 0, multi_label=True)
        assert found == pytest.approx([1 / (1 + np.exp(1)), 1 / (1 + np.exp(-1))])

    @given(
        st.lists(
            st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3),
            min_size=2,
            max_size=20,
        )
    )
    def test_any_logits_give_probabilities(self, rows: list[list[float]]) -> None:
        logits = np.array(rows, np.float32)
        single = label_probabilities(logits, 2, multi_label=False)
        multi = label_probabilities(logits, 2, multi_label=True)
        assert single.sum() == pytest.approx(1)
        assert ((multi >= 0) & (multi <= 1)).all()


class TestMethod:
    LABELS = "contradiction|neutral|entailment"

    async def test_every_label_of_every_question_is_in_one_batch(self, tmp_path: Path) -> None:
        source, variant = classifiers(tmp_path, self.LABELS)
        found = await ask(NliMethod(source), CHOICE, PREDICATE, SCORE)
        assert variant.sent == [6]
        assert [len(one.probabilities) for one in found.estimates] == [3, 1, 2]
        assert found.served.node == "node-1"
        # "play a song | This example is music." has 8 words
        assert found.tokens == 3 * 8 + 8 + 2 * 8
        await source.close()

    async def test_answers_are_those_of_each_question_alone(self, tmp_path: Path) -> None:
        source, _ = classifiers(tmp_path, self.LABELS)
        method = NliMethod(source)
        together = (await ask(method, CHOICE, PREDICATE, SCORE)).estimates
        for question, one in zip((CHOICE, PREDICATE, SCORE), together, strict=True):
            (alone,) = (await ask(method, question)).estimates
            np.testing.assert_array_equal(one.probabilities, alone.probabilities)
        assert together[0].probabilities.sum() == pytest.approx(1)
        await source.close()

    async def test_equal_pairs_are_computed_once(self, tmp_path: Path) -> None:
        source, variant = classifiers(tmp_path, self.LABELS)
        found = await ask(NliMethod(source), CHOICE, CHOICE)
        assert variant.sent == [3]
        first, second = found.estimates
        np.testing.assert_array_equal(first.probabilities, second.probabilities)
        assert found.tokens == 2 * 3 * 8
        await source.close()

    async def test_only_choices_with_labels_of_their_own_refuse(self, tmp_path: Path) -> None:
        source, _ = classifiers(tmp_path, self.LABELS)
        method = NliMethod(source)
        (single,) = (await ask(method, CHOICE)).estimates
        (multi,) = (await ask(method, CHOICE, multi_label=True)).estimates
        assert single.threshold is None
        assert multi.threshold == 0.5
        assert multi.fit == multi.probabilities.max()
        await source.close()

    async def test_a_description_takes_the_place_of_the_value(self, tmp_path: Path) -> None:
        source, _ = classifiers(tmp_path, self.LABELS)
        method = NliMethod(source)
        described = Question("choice", None, "What?", (Option(True, "music"), Option("travel")))
        plain = Question("choice", None, "What?", (Option("music"), Option("travel")))
        one, other = (await ask(method, described, plain)).estimates
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        await source.close()

    async def test_a_model_without_an_entailment_class_is_named_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source, _ = classifiers(tmp_path, "no|yes")
        method = NliMethod(source)
        with caplog.at_level(logging.WARNING):
            await ask(method, CHOICE)
            await ask(method, CHOICE)
        assert [record.getMessage() for record in caplog.records] == [
            "no class of m has a name that begins with 'entail' (no, yes): the last one is taken"
        ]
        await source.close()

    async def test_a_model_of_one_class(self, tmp_path: Path) -> None:
        source, _ = classifiers(tmp_path, "score")
        with pytest.raises(RequestError, match="has one class and cannot tell entailment"):
            await ask(NliMethod(source), CHOICE)
        await source.close()

    async def test_too_many_tokens_or_labels(self, tmp_path: Path) -> None:
        source, _ = classifiers(tmp_path, self.LABELS, max_request_tokens=20)
        with pytest.raises(RequestTooLargeError, match="make 24 tokens in 3 sequences; at most 20"):
            await ask(NliMethod(source), CHOICE)
        with pytest.raises(RequestTooLargeError, match="have 16386 labels and statements"):
            await ask(NliMethod(source), *[CHOICE] * 5462)
        await source.close()
