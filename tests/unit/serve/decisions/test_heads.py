"""Heads on vectors of which the right answer is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.decisions.heads import (
    IN_SCOPE_THRESHOLD,
    LinearHead,
    Scores,
    few_shot_head,
    label_texts,
    names_head,
    predicate_probability,
)

Matrix = npt.NDArray[np.float32]

DIMENSIONS = 64


def unit(vectors: Any) -> Matrix:
    values = np.asarray(vectors, dtype=np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), dtype=np.float32)


def silent(examples: Sequence[Matrix]) -> list[list[str]]:
    """A text without a word for each example: the vectors alone decide."""
    return [[""] * len(matrix) for matrix in examples]


def score(head: LinearHead, vectors: Matrix) -> Scores:
    return head(vectors, [""] * len(vectors))


class World:
    """Labels with a center each; texts scatter around it, names lie near it."""

    def __init__(self, labels: int, seed: int = 0, dimensions: int = DIMENSIONS) -> None:
        self.generator = np.random.default_rng(seed)
        self.centers = unit(self.generator.normal(size=(labels, dimensions)))

    def near(self, label: int, count: int, noise: float = 0.6) -> Matrix:
        center = self.centers[label]
        scatter = self.generator.normal(size=(count, len(center))) / np.sqrt(len(center))
        return unit(center + noise * scatter)

    def names(self, noise: float = 0.6) -> list[Matrix]:
        return [self.near(label, 2, noise) for label in range(len(self.centers))]

    def examples(self, count: int) -> list[Matrix]:
        return [self.near(label, count) for label in range(len(self.centers))]


Make = Callable[[World], LinearHead]


def from_names(world: World) -> LinearHead:
    return names_head(world.names())


def from_examples(world: World) -> LinearHead:
    names, examples = world.names(), world.examples(4)
    return few_shot_head(names, examples, silent(examples))


makers = pytest.mark.parametrize("make", [from_names, from_examples])


@makers
def test_the_nearest_label_wins_and_far_texts_are_refused(make: Make) -> None:
    world = World(6)
    head = make(world)
    texts = np.concatenate([world.near(label, 5) for label in range(6)])
    scores = score(head, texts)
    assert scores.probabilities.argmax(axis=1).tolist() == np.repeat(np.arange(6), 5).tolist()
    assert (scores.in_scope > IN_SCOPE_THRESHOLD).all()
    away = unit(-world.centers.sum(axis=0))[None]
    assert score(head, away).in_scope[0] < IN_SCOPE_THRESHOLD


@makers
@given(labels=st.integers(2, 12), texts=st.integers(0, 5), seed=st.integers(0, 99))
def test_scores_are_probabilities(make: Make, labels: int, texts: int, seed: int) -> None:
    world = World(labels, seed)
    given_texts = unit(world.generator.normal(size=(texts, DIMENSIONS)))
    scores = score(make(world), given_texts)
    assert scores.probabilities.shape == (texts, labels)
    assert scores.probabilities.dtype == scores.in_scope.dtype == np.float64
    assert scores.in_scope.shape == (texts,)
    assert (scores.probabilities >= 0).all()
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1.0, atol=1e-9)
    assert ((scores.in_scope >= 0) & (scores.in_scope <= 1)).all()


@makers
def test_a_text_is_judged_alone(make: Make) -> None:
    world = World(5)
    head = make(world)
    texts = np.concatenate([world.near(label, 3) for label in range(5)])
    together = score(head, texts)
    alone = score(head, texts[7:8])
    np.testing.assert_allclose(alone.probabilities[0], together.probabilities[7], atol=1e-5)
    np.testing.assert_allclose(alone.in_scope[0], together.in_scope[7], atol=1e-5)


@makers
def test_the_order_of_the_labels_does_not_matter(make: Make) -> None:
    world = World(4)
    names, examples, texts = world.names(), world.examples(4), world.near(1, 3, noise=1.5)
    order = [2, 0, 3, 1]
    if make is from_names:
        first, second = names_head(names), names_head([names[i] for i in order])
    else:
        said = [[f"{n} in {label}" for n in range(4)] for label in ("a", "b", "c", "d")]
        first = few_shot_head(names, examples, said)
        second = few_shot_head(
            [names[i] for i in order], [examples[i] for i in order], [said[i] for i in order]
        )
    expected = first(texts, ["1 in b"] * 3).probabilities[:, order]
    np.testing.assert_allclose(second(texts, ["1 in b"] * 3).probabilities, expected, atol=1e-4)


def test_examples_correct_misleading_names() -> None:
    world = World(5)
    names = world.names(noise=20.0)
    texts = np.concatenate([world.near(label, 20) for label in range(5)])
    targets = np.repeat(np.arange(5), 20)

    def right(head: LinearHead) -> float:
        return float(np.mean(score(head, texts).probabilities.argmax(axis=1) == targets))

    assert right(names_head(names)) < 0.8
    examples = world.examples(5)
    assert right(few_shot_head(names, examples, silent(examples))) > 0.97


def test_words_tell_apart_what_vectors_do_not() -> None:
    world = World(2)
    world.centers[1] = world.centers[0]
    examples = world.examples(6)
    said = [["what is my meal plan", "MEAL times?"] * 3, ["my bank account", "a bank"] * 3]
    head = few_shot_head(world.names(), examples, said)
    between = world.near(0, 1, noise=0.0)
    meal, bank, neither = (
        head(between, [text]).probabilities[0, 0] for text in ("a Meal", "the bank", "hello")
    )
    assert bank + 0.1 < neither < meal - 0.1
    assert score(head, between).in_scope[0] == head(between, ["the bank"]).in_scope[0]


def test_names_alone_are_judged_without_words() -> None:
    world = World(3)
    head, vectors = names_head(world.names()), world.near(1, 2)
    np.testing.assert_array_equal(
        head(vectors, ["a", "b"]).probabilities, score(head, vectors).probabilities
    )


def test_a_label_without_examples_is_still_found() -> None:
    world = World(4)
    examples = world.examples(30)
    examples[2] = np.zeros((0, DIMENSIONS), dtype=np.float32)
    head = few_shot_head(world.names(), examples, silent(examples))
    found = score(head, world.near(2, 20)).probabilities.argmax(axis=1)
    assert np.mean(found == 2) > 0.9


def test_no_examples_at_all_is_the_names_head() -> None:
    world = World(3)
    names, texts = world.names(), world.near(0, 4)
    none = [np.zeros((0, DIMENSIONS), dtype=np.float32)] * 3
    head = few_shot_head(names, none, silent(none))
    expected, actual = score(names_head(names), texts), score(head, texts)
    np.testing.assert_array_equal(actual.probabilities, expected.probabilities)
    np.testing.assert_array_equal(actual.in_scope, expected.in_scope)


def test_a_label_of_many_examples_does_not_win_for_that() -> None:
    world = World(2)
    examples = [world.near(0, 100), world.near(1, 2)]
    between = unit(world.centers.sum(axis=0))[None]
    head = few_shot_head(world.names(), examples, silent(examples))
    assert 0.1 < score(head, between).probabilities[0, 0] < 0.9


def test_a_fit_is_short_enough_for_a_request() -> None:
    world = World(150, dimensions=384)
    names, examples = world.names(), world.examples(10)
    words = [f"word{n}" for n in range(400)]
    said = [[" ".join(world.generator.choice(words, 8)) for _ in group] for group in examples]
    taken = []
    for _ in range(3):
        started = time.process_time()
        few_shot_head(names, examples, said)
        taken.append(time.process_time() - started)
    # 0.3 to 0.6 s on a quiet core; the bound leaves room for a busy one
    assert min(taken) < 3.0


def test_a_name_is_phrased_and_a_description_outweighs_it() -> None:
    phrased = label_texts("pay_bill", None)
    assert phrased[0] == "pay bill"
    assert len(set(phrased)) == len(phrased) > 1
    assert all("pay bill" in text for text in phrased)
    described = label_texts("A7", "the user wants to pay a bill")
    assert sum("wants to pay" in text for text in described) > len(described) / 2
    assert label_texts("pay_bill", " ") == phrased
    assert label_texts("{0} {x}", None)[0] == "{0} {x}"
    assert label_texts("_", None)[0] == "_"


def test_a_predicate_follows_the_cosine() -> None:
    text = unit(np.eye(8)[0])
    other = unit([1.0, *[0.5] * 7])
    alike, near, unlike = (
        predicate_probability(text, v) for v in (text, other, unit(np.eye(8)[1]))
    )
    assert 0.95 < near < alike <= 1
    assert 0 <= unlike < 0.05


def test_wrong_shapes_are_told() -> None:
    world = World(3)
    names, examples = world.names(), world.examples(2)
    short = examples[0][:, :5]
    empty = names[0][:0]
    with pytest.raises(ValueError, match="1 labels; give two or more"):
        names_head(names[:1])
    with pytest.raises(ValueError, match=r"label 1 of the shape \(2, 5\); give rows of 64"):
        names_head([names[0], short])
    with pytest.raises(ValueError, match="label 2 has no vector"):
        names_head([*names[:2], empty])
    with pytest.raises(ValueError, match="examples of 2 and their texts of 3 labels for 3 labels"):
        few_shot_head(names, examples[:2], silent(examples))
    with pytest.raises(ValueError, match="examples of 3 and their texts of 2 labels for 3 labels"):
        few_shot_head(names, examples, silent(examples)[:2])
    with pytest.raises(ValueError, match=r"examples of label 2 of the shape \(2, 5\)"):
        few_shot_head(names, [*examples[:2], short], silent(examples))
    with pytest.raises(ValueError, match="1 texts for 2 vectors of the examples of label 1"):
        few_shot_head(names, examples, [["", ""], [""], ["", ""]])
    with pytest.raises(ValueError, match=r"vectors of the shape \(64,\); give rows of 64"):
        names_head(names)(world.centers[0], [""])
    with pytest.raises(ValueError, match="1 texts for 2 vectors; give the texts"):
        names_head(names)(examples[0], [""])
    with pytest.raises(ValueError, match=r"a text of the shape \(64,\) and a statement of \(5,\)"):
        predicate_probability(world.centers[0], short[0])
