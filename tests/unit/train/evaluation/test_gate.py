"""When an adapter may be published, and what is written of its measures."""

from __future__ import annotations

from typing import Any

import pytest

from train.evaluation.gate import judge, why_unjudged
from train.evaluation.held_out import before_and_after
from train.evaluation.options import EvaluationOptions
from train.evaluation.report import as_json, as_markdown, as_record, from_record, table


def options(gate: str = "eval_loss", tolerance: float = 0.0) -> EvaluationOptions:
    metrics = ["exact_match"] if gate == "exact_match" else []
    return EvaluationOptions.model_validate(
        {"gate": gate, "gate_tolerance": tolerance, "metrics": metrics}
    )


@pytest.mark.parametrize(
    ("metric", "before", "after", "tolerance", "passed"),
    [
        ("eval_loss", 2.0, 1.9, 0.0, True),
        ("eval_loss", 2.0, 2.0, 0.0, True),
        ("eval_loss", 2.0, 2.001, 0.0, False),
        ("eval_loss", 2.0, 2.25, 0.25, True),
        ("eval_loss", 2.0, float("nan"), 9.0, False),
        ("eval_loss", float("inf"), 1.0, 0.0, False),
        ("exact_match", 0.5, 0.6, 0.0, True),
        ("exact_match", 0.5, 0.4, 0.0, False),
        ("exact_match", 0.5, 0.25, 0.25, True),
    ],
)
def test_worse_than_the_base_does_not_pass(
    metric: str, before: float, after: float, tolerance: float, passed: bool
) -> None:
    verdict = judge(options(metric, tolerance), {metric: before}, {metric: after})
    assert verdict is not None
    assert verdict.passed is passed


def test_the_reason_has_both_numbers() -> None:
    verdict = judge(options(), {"eval_loss": 2.1}, {"eval_loss": 2.3})
    assert verdict is not None
    assert verdict.words == ("eval_loss went from 2.1000 to 2.3000 (lower is better, tolerance 0)")
    verdict = judge(options("exact_match", 0.1), {"exact_match": 0.5}, {"exact_match": 0.2})
    assert verdict is not None
    assert "higher is better, tolerance 0.1" in verdict.words


def test_without_measures_there_is_no_verdict() -> None:
    assert judge(options(), None, {"eval_loss": 1.0}) is None
    assert judge(options(), {"eval_loss": 1.0}, None) is None
    assert judge(options("exact_match"), {"eval_loss": 1.0}, {"eval_loss": 1.0}) is None


def test_measures_of_other_rows_are_not_compared() -> None:
    one, other = {"eval_loss": 2.0, "held_out": "a"}, {"eval_loss": 1.0, "held_out": "b"}
    assert judge(options(), one, other) is None
    assert "changed while the run went on" in why_unjudged(options(), one, other)
    # a line of an older release does not say
    assert judge(options(), {"eval_loss": 2.0}, other) is not None
    assert why_unjudged(options(), {"eval_loss": 2.0}, other) == ""


def test_why_nothing_is_judged() -> None:
    assert "nothing was held out" in why_unjudged(options(), None, None)
    assert "exact_match was not measured" in why_unjudged(
        options("exact_match"), {"eval_loss": 1.0}, {"eval_loss": 1.0}
    )


def test_a_base_that_was_measured_twice_counts_as_it_was_at_last() -> None:
    lines = [{"step": 0, "eval_loss": 3.0}, {"step": 0, "eval_loss": 2.0}, {"step": 4}]
    assert before_and_after(lines) == (lines[1], lines[2])
    assert before_and_after(lines[2:]) == (None, lines[2])
    assert before_and_after([]) == (None, None)


LINES: list[dict[str, Any]] = [
    {"step": 0, "eval_loss": 2.0, "perplexity": 7.389, "exact_match": 0.0, "eval_rows": 5},
    {"step": 4, "eval_loss": 2.5, "perplexity": 12.18, "exact_match": 0.4, "eval_rows": 5},
]


def test_what_is_written() -> None:
    verdict = judge(options(), LINES[0], LINES[-1])
    assert from_record(as_record(verdict)) == verdict
    assert from_record(as_record(None)) is None
    found = as_json(LINES, verdict)
    assert found["better"] == {
        "eval_loss": "lower",
        "perplexity": "lower",
        "exact_match": "higher",
    }
    assert [line["step"] for line in found["evaluations"]] == [0, 4]
    assert (found["gate"]["passed"], found["rows"]) == (False, 5)
    page = as_markdown("bot", LINES, verdict)
    assert "| loss | 2.0000 | 2.5000 |" in page
    assert "| 4 | 2.5000 | 12.1800 | 0.4000 |" in page
    assert "The result is not published: eval_loss went from 2.0000 to 2.5000" in page
    assert table({}, {"eval_loss": 1.0}) == [("loss", "-", "1.0000")]
