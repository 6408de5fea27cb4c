"""Heads: fitted, calibrated, measured, saved, published; and data that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ironcliw.cli import main
from ironcliw.client import Classification, Served
from ironcliw.errors import DataError, SettingsError
from ironcliw.head_record import HeadRecord
from train.heads.fit import (
    calibration_error,
    cross_entropy,
    fit_linear,
    fit_temperature,
    log_softmax,
)
from train.heads.head import Labelled, fit_head
from train.heads.make import HeadPlan, make_head
from train.heads.teacher import ask
from train.heads.texts import HeadText, read_texts

KINDS = ("sport", "music", "food")


def vectors_of(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """A text's kind in three dimensions with noise that depends on the text alone."""
    rows = []
    for text in texts:
        random = np.random.default_rng(abs(hash_of(text)))
        row = random.normal(0, 0.35, 6)
        for at, kind in enumerate(KINDS):
            row[at] += kind in text
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, np.float32)


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode()[-8:], "big")


def write_rows(file: Path, count: int = 300, labelled: bool = True, first: int = 0) -> Path:
    rows: list[dict[str, Any]] = []
    for at in range(first, first + count):
        kind = KINDS[at % 3]
        rows.append({"text": f"{kind} number {at}", **({"label": kind} if labelled else {})})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_fit_finds_what_separates() -> None:
    texts = [f"{KINDS[at % 3]} {at}" for at in range(90)]
    targets = np.eye(3)[np.arange(90) % 3]
    linear = fit_linear(vectors_of(texts), targets, 0.02)
    logits = linear.logits(vectors_of(texts))
    assert (logits.argmax(1) == np.arange(90) % 3).mean() > 0.95
    # at the minimum the gradient is nothing but the penalty's
    vectors = vectors_of(texts).astype(np.float64)
    errors = np.exp(log_softmax(logits)) - targets
    gradient = errors.T @ (vectors - vectors.mean(0)) + 0.02 * linear.weight
    assert np.abs(gradient).max() < 1e-3
    assert np.abs(errors.sum(0)).max() < 1e-3


def test_a_temperature_makes_probabilities_honest() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 1, (4000, 5))
    honest = np.exp(log_softmax(logits))
    answers = np.array([random.choice(5, p=row) for row in honest])
    targets = np.eye(5)[answers]
    found = fit_temperature(3.0 * logits, targets)
    assert found == pytest.approx(3.0, rel=0.05)
    for other in (0.9 * found, 1.1 * found):
        assert cross_entropy(3 * logits, targets, found) < cross_entropy(3 * logits, targets, other)
    before = calibration_error(np.exp(log_softmax(3 * logits)), answers)
    after = calibration_error(np.exp(log_softmax(3 * logits / found)), answers)
    assert after < 0.03 < 0.2 < before


def test_a_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    # 0.9 sure and right once of two: 0.4; 0.6 sure and right twice: 0.4
    assert calibration_error(probabilities, [0, 1, 1, 1]) == pytest.approx(0.4)


def test_a_head_from_files_to_the_register(tmp_path: Path) -> None:
    plan = HeadPlan(
        "all-MiniLM-L6-v2",
        (str(write_rows(tmp_path / "a.jsonl")),),
        (str(write_rows(tmp_path / "b.jsonl", 120, first=300)),),
    )
    fitted = make_head(plan, vectors_of)
    assert fitted.labels == ("food", "music", "sport")
    assert fitted.measures["accuracy"] > 0.9
    assert fitted.measures["rows"] == 120
    assert fitted.measures["ece"] < 0.1
    folder = tmp_path / "head"
    folder.mkdir()
    fitted.save(folder)
    record = HeadRecord.read(folder)
    assert record.labels == fitted.labels
    assert record.temperature == fitted.temperature
    assert record.metrics["accuracy_of_names"] == fitted.names_accuracy


class Teacher:
    """Knows the kind by the text; says of every tenth that no label fits."""

    def classify(self, text: str, labels: Sequence[str], *, model: str) -> Classification:
        assert model == "big"
        served = Served(model, "local", "node", None, None)
        if text.endswith("0"):
            return Classification(None, {}, served)
        scores = {label: 0.8 if label in text else 0.1 for label in labels}
        return Classification(max(scores, key=scores.__getitem__), scores, served)


def test_a_teacher_says_the_labels(tmp_path: Path) -> None:
    plan = HeadPlan(
        "all-MiniLM-L6-v2",
        (str(write_rows(tmp_path / "a.jsonl", labelled=False)),),
        (str(write_rows(tmp_path / "b.jsonl", 60, first=300)),),
        labels=KINDS,
    )
    done: list[int] = []
    fitted = make_head(
        plan,
        vectors_of,
        lambda texts, labels: ask(Teacher(), "big", texts, labels, done.append),
    )
    assert fitted.labels == KINDS
    assert fitted.measures["accuracy"] > 0.9
    assert done == list(range(1, 301))
    # it is as sure as its teacher is
    assert 0.5 < np.exp(-fitted.measures["cross_entropy"]) < 0.95


def test_a_teacher_needs_labels(tmp_path: Path) -> None:
    plan = HeadPlan("m", (str(write_rows(tmp_path / "a.jsonl")),))
    with pytest.raises(SettingsError, match="name two or more with --labels"):
        make_head(plan, vectors_of, lambda texts, labels: np.zeros((0, 0)))


@pytest.mark.parametrize(
    ("content", "labelled", "words"),
    [
        ('{"label": "a"}\n', True, r"a.jsonl:1: .*text is not among them"),
        ('{"text": "x"}\n', True, r"a.jsonl:1: label is None; give the label's name"),
        ('{"text": "x", "label": ""}\n', True, r"a.jsonl:1: label is ''"),
        ('{"text": " "}\n', False, r"a.jsonl:1: text is empty"),
        ("not json\n", False, r"a.jsonl:1: the line is not JSON"),
    ],
)
def test_rows_that_are_wrong(content: str, labelled: bool, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=words):
        read_texts([str(tmp_path / "a.jsonl")], labelled=labelled)


def test_equal_texts_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": " x"}\n{"text": "y", "label": 3}\n')
    found = read_texts([str(tmp_path / "a.jsonl")], labelled=False)
    assert [row.text for row in found] == ["x", "y"]
    assert isinstance(found[0], HeadText)
    assert found[1].label is None


def test_equal_texts_with_two_labels_are_refused(tmp_path: Path) -> None:
    rows = [("x", "a"), ("y", "b"), (" x ", "b"), ("x", "a")]
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    words = r"a.jsonl:3: it is the text of .*a.jsonl:1 with the label 'b', there it has 'a'"
    with pytest.raises(DataError, match=words):
        read_texts([str(tmp_path / "a.jsonl")], labelled=True)


def test_texts_that_are_learned_are_not_measured_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learned = write_rows(tmp_path / "a.jsonl", 300)
    measured = write_rows(tmp_path / "b.jsonl", 330)
    plan = HeadPlan("m", (str(learned),), (str(measured),))
    assert make_head(plan, vectors_of).measures["rows"] == 30
    assert (
        f"300 texts to measure on are learned from, too: {measured}:1 ({learned}:1)" in caplog.text
    )
    assert "and 295 more" in caplog.text
    same = HeadPlan("m", (str(learned),), (str(learned),))
    with pytest.raises(DataError, match="none is left to measure on: hold other texts out"):
        make_head(same, vectors_of)


def test_too_few_texts() -> None:
    targets = np.eye(2)[np.arange(10) % 2]
    given = Labelled(np.zeros((10, 3), np.float32), targets, [bytes([at]) * 32 for at in range(10)])
    with pytest.raises(DataError, match=r"10 texts of 2 labels: .* give more"):
        fit_head(("a", "b"), given, np.zeros((2, 3), np.float32))


def test_labels_that_are_not_among_those_to_choose_from(tmp_path: Path) -> None:
    plan = HeadPlan("m", (str(write_rows(tmp_path / "a.jsonl")),), labels=("sport", "music"))
    with pytest.raises(DataError, match=r"a.jsonl:3 has the label 'food', which is not among"):
        make_head(plan, vectors_of)


def test_a_folder_that_is_not_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "file").touch()
    with pytest.raises(SystemExit):
        main(["train", "head", "--data", "a.jsonl", "--to", str(tmp_path / "to")])
    assert "is not empty; name a new folder" in capsys.readouterr().err
