"""The table before and after a run."""

from __future__ import annotations

from train.evaluation.gate import Verdict
from train.evaluation.report import as_json, as_markdown, table

BEFORE = {"step": 0, "eval_rows": 7, "eval_loss": 0.6931, "preference_accuracy": 0.5}
AFTER = BEFORE | {"step": 9, "eval_loss": 0.25, "preference_accuracy": 0.9, "reward_margin": 1.5}


def test_preferences_stand_in_the_table() -> None:
    assert table(BEFORE, AFTER) == [
        ("loss", "0.6931", "0.2500"),
        ("preference accuracy", "0.5000", "0.9000"),
        ("margin of the rewards", "-", "1.5000"),
    ]
    verdict = Verdict("preference_accuracy", 0.5, 0.9, 0.0)
    page = as_markdown("run", [BEFORE, AFTER], verdict)
    assert "| preference accuracy | 0.5000 | 0.9000 |" in page
    assert "The result may be published" in page


def test_which_way_a_measure_points_is_told() -> None:
    found = as_json([BEFORE, AFTER], None)
    assert found["better"] == {
        "eval_loss": "lower",
        "preference_accuracy": "higher",
        "reward_margin": "higher",
    }
    assert [each["step"] for each in found["evaluations"]] == [0, 9]


def test_shorter_vectors_stand_in_the_table_the_longest_first() -> None:
    before = {"eval_loss": 2.0, "retrieval_accuracy": 0.5}
    shorter = {"retrieval_accuracy_64": 0.125, "retrieval_accuracy_256": 0.25}
    after = before | shorter | {"step": 9, "eval_rows": 7, "seconds": 3.0}
    assert table(before, after) == [
        ("loss", "2.0000", "2.0000"),
        ("retrieval accuracy", "0.5000", "0.5000"),
        ("retrieval accuracy of 256 dimensions", "-", "0.2500"),
        ("retrieval accuracy of 64 dimensions", "-", "0.1250"),
    ]
    assert as_json([after], None)["better"]["retrieval_accuracy_64"] == "higher"
    page = as_markdown("run", [{**after, "step": 0}, after], None)
    assert "| 9 | 2.0000 | 0.5000 | 0.2500 | 0.1250 |" in page
