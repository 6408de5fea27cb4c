"""What has to be equal of two answers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from train.evaluation.answers import essence, last_match, last_number
from train.evaluation.options import EvaluationOptions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He has 3 apples and 4 pears: 7", "7"),
        ("16 - 3 = 13\n#### 13", "13"),
        ("#### 1,234.50", "1234.5"),
        ("It costs $18.00.", "18"),
        ("so -7", "-7"),
        ("-0.0", "0"),
        ("1000", "1000"),
        ("1e3", "3"),
        ("2, 30", "30"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text: str, expected: str | None) -> None:
    assert last_number(text) == expected


def test_the_last_match() -> None:
    assert last_match(r"####\s*(\w+)", "#### one\n####  two ") == "two"
    assert last_match(r"answer: .*", "the answer:  a   b") == "answer: a b"
    assert last_match(r"answer", "none") is None
    assert last_match(r"a(b)?", "a") is None


def test_what_is_compared() -> None:
    number = EvaluationOptions(metrics=("exact_match",), match="last_number")
    assert essence(number)("= 1,000.0") == essence(number)("x 1000")
    pattern = EvaluationOptions(metrics=("exact_match",), match="regex", pattern="is (.*)")
    assert essence(pattern)("it is  so ") == "so"
    assert number.generates
    assert pattern.generates
    assert not EvaluationOptions(metrics=("exact_match",)).generates
    assert not EvaluationOptions(match="last_number").generates


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"match": "regex"}, "a pattern belongs to match: regex"),
        ({"pattern": "a"}, "a pattern belongs to match: regex"),
        ({"match": "regex", "pattern": "("}, "is no regular expression"),
        ({"gate": "exact_match"}, "gate is 'exact_match', which is not measured; add it"),
        ({"labels": ["yes", "yes"]}, "a decision has two labels at least"),
        ({"metrics": ["accuracy"]}, "'exact_match' or 'decision_accuracy'"),
        ({"gate_tolerance": float("nan")}, "finite number"),
    ],
)
def test_wrong_options(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvaluationOptions.model_validate(given)
