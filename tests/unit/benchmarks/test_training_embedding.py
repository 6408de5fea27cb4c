"""The benchmark of embeddings: which labels are trained on, and what its rows say."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.intent_accuracy import Split
from benchmarks.training_embedding import GAINED, Found, build_rows, halves, write_texts


def test_the_halves_share_no_label() -> None:
    labels = [f"label_{at}" for at in range(10)] * 3
    seen, unseen = halves(labels)
    assert len(seen) == len(unseen) == 5
    assert not set(seen) & set(unseen)
    assert halves(reversed(labels)) == (seen, unseen)
    assert halves(labels, seed=1)[0] != seen


def test_only_texts_of_the_labels_are_written(tmp_path: Path) -> None:
    split = Split([f"text {at}" for at in range(9)], ["a", "b", "c"] * 3)
    write_texts(split, ["a", "c"], tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} == {"a", "c"}
    assert len(rows) == 6
    write_texts(split, ["a", "c"], tmp_path / "some.jsonl", only=2)
    some = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
    assert len(some) == 2
    assert all(row in rows for row in some)


def test_what_is_gained_is_in_points() -> None:
    rows = build_rows(Found(0.70, 0.74, 0.9, 0.91, 100.0, 7500))
    gained = next(row for row in rows if row.goal is GAINED)
    assert gained.unit == "points"
    assert gained.met
    worse = build_rows(Found(0.70, 0.72, 0.9, 0.91, 100.0, 7500))
    assert not next(row for row in worse if row.goal is GAINED).met
