"""Accuracy of a decoder: perplexity and agreement as they are defined; what cannot be judged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.generation_accuracy import Accuracy, LogitsOf, accuracy, decoder_logits, problems
from benchmarks.harness import BenchmarkError
from serve.engines.decoders.fake import FakeDecoder


def fixed(rows: list[list[float]]) -> LogitsOf:
    """The same logits at each place, whatever the tokens are."""
    return lambda tokens: np.log(np.asarray(rows[: len(tokens)], np.float32))


def test_perplexity_and_agreement_by_hand() -> None:
    ours = fixed([[0.5, 0.25, 0.25], [0.1, 0.6, 0.3], [1, 1, 1]])
    theirs = fixed([[0.4, 0.2, 0.4], [0.3, 0.5, 0.2], [1, 1, 1]])
    # the next tokens are 1 and 2, at odds of 1/4 and 0.3, by the reference of 0.2 and 0.2
    found = accuracy(ours, theirs, [[0, 1, 2], [1]])
    assert found.perplexity == pytest.approx(math.exp(-(math.log(0.25) + math.log(0.3)) / 2))
    assert found.reference_perplexity == pytest.approx(5.0)
    assert found.tokens == 2
    assert found.agreement == 1.0
    swapped = accuracy(fixed([[0.1, 0.2, 0.7], [0.3, 0.5, 0.2], [1, 1, 1]]), theirs, [[0, 1, 2]])
    assert swapped.agreement == 0.5


def test_logits_that_are_not_normalised_and_large() -> None:
    def shifted(tokens: list[int]) -> np.ndarray:
        return np.log(np.full((len(tokens), 4), 0.25, np.float32)) + 5000

    assert accuracy(shifted, shifted, [[0, 1, 2]]).perplexity == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize(
    ("perplexity", "agreement", "good"),
    [(10.04, 0.995, True), (9.96, 0.99, True), (10.06, 0.995, False), (10.0, 0.989, False)],
)
def test_goals(perplexity: float, agreement: float, good: bool) -> None:
    assert Accuracy(perplexity, 10.0, agreement, 100).good is good


def test_texts_without_a_next_token_cannot_be_judged() -> None:
    with pytest.raises(BenchmarkError, match="nothing to compare"):
        accuracy(fixed([[1, 1]]), fixed([[1, 1]]), [[0], []])


def test_a_decoder_agrees_with_itself_and_its_slot_is_free_after() -> None:
    logits = decoder_logits(FakeDecoder("fake:100?slots=1"))
    found = accuracy(logits, logits, [[5, 6, 7, 8], [9, 10]])
    assert found.agreement == 1.0
    assert found.tokens == 4
    assert found.change == 0.0


def test_data_that_is_absent_or_too_short(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    with pytest.raises(BenchmarkError, match="fetch-data"):
        problems(data, 1, tmp_path)
    data.write_text(json.dumps({"question": "a", "answer": "b"}) + "\n")
    with pytest.raises(BenchmarkError, match="has 1 lines; 2 were asked for"):
        problems(data, 2, tmp_path)
