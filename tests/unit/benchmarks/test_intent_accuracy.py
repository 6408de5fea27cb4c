"""The figures of decisions, on cases that can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import BenchmarkError
from benchmarks.intent_accuracy import (
    Split,
    accuracy,
    auroc,
    calibration_error,
    draw_examples,
    load_split,
    measure,
    targets_of,
)

WORDS = ("weather", "music", "alarm")
OTHER = "philosophy"


def write(folder: Path, name: str, rows: list[tuple[str, str]]) -> Path:
    path = folder / "intent" / f"clinc150_{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": t, "label": k}) + "\n" for t, k in rows))
    return path


def embed(texts: list[str]) -> np.ndarray:
    """One direction a word that is known, and a little of another for every text."""
    vectors = np.array([[float(w in text) for w in (*WORDS, OTHER)] + [0.3] for text in texts])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def test_every_figure_of_an_easy_task(tmp_path: Path) -> None:
    write(tmp_path, "train", [(f"{w} {i}", w) for w in WORDS for i in range(12)])
    write(tmp_path, "val", [(f"{w} please", w) for w in WORDS])
    write(tmp_path, "oos_val", [(f"{OTHER} please", "oos")])
    figures = measure(embed, tmp_path)
    kinds = ("label names", "5 examples", "10 examples")
    assert [figures[f"{kind} accuracy"] for kind in kinds] == [1.0] * 3
    assert [figures[f"{kind} auroc"] for kind in kinds] == [1.0] * 3
    assert [figures[f"{kind} answered in scope"] for kind in kinds] == [1.0] * 3
    assert [figures[f"{kind} answered out of scope"] for kind in kinds] == [0.0] * 3
    assert all(0 <= figures[f"{kind} ece"] < 0.2 for kind in kinds)


def test_accuracy_counts_the_likeliest() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.3, 0.7]])
    assert accuracy(probabilities, np.array([0, 1, 1, 1])) == 0.75


def test_calibration_error_by_hand() -> None:
    # two texts at 0.9, one right: 0.4 off; two at 0.6, both right: 0.4 off
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert calibration_error(probabilities, np.array([0, 1, 0, 0])) == pytest.approx(0.4)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_auroc_counts_pairs() -> None:
    assert auroc(np.array([3.0, 2.0]), np.array([1.0, 0.0])) == 1
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([0.0, 2.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([0.0]), np.array([1.0])) == 0


def test_examples_are_drawn_by_label_without_repetition() -> None:
    targets = np.repeat(np.arange(3), [4, 9, 2])
    drawn = draw_examples(targets, 4, np.random.default_rng(0))
    assert [len(indices) for indices in drawn] == [4, 4, 2]
    for label, indices in enumerate(drawn):
        assert len(set(indices)) == len(indices)
        assert (targets[indices] == label).all()
    again = draw_examples(targets, 4, np.random.default_rng(0))
    assert all((a == b).all() for a, b in zip(drawn, again, strict=True))
    other = draw_examples(targets, 4, np.random.default_rng(1))
    assert not (drawn[1] == other[1]).all()


def test_absent_and_damaged_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"clinc150_val\.jsonl does not exist; fetch it"):
        load_split(tmp_path, "val")
    path = write(tmp_path, "val", [])
    with pytest.raises(BenchmarkError, match="is empty"):
        load_split(tmp_path, "val")
    for content in ("{", '{"text": "a"}', "[]"):
        path.write_text(content)
        with pytest.raises(BenchmarkError, match="is not lines of texts and labels"):
            load_split(tmp_path, "val")
    with pytest.raises(BenchmarkError, match=r"labels \['b'\] are not among the 1"):
        targets_of(Split(["x"], ["b"]), ["a"])
