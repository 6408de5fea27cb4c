"""A teacher that fails: what it has answered is kept, and not asked for again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ironcliw.client import Classification, Served
from ironcliw.errors import OverloadedError, SettingsError
from train.heads.kept_answers import KeptAnswers
from train.heads.teacher import ask

LABELS = ("a", "b")
TEXTS = [f"text {at}" for at in range(40)]


class Teacher:
    """Fails for some texts."""

    def __init__(self, *broken: str) -> None:
        self.broken = broken
        self.asked: list[str] = []

    def classify(self, text: str, labels: Sequence[str], *, model: str) -> Classification:
        self.asked.append(text)
        if text in self.broken:
            raise OverloadedError("full", retry_after=1)
        return Classification("a", {"a": 0.6, "b": 0.2}, Served(model, "local", "node", None, None))


def test_one_request_that_fails_loses_no_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "head" / "answers.jsonl"
    with pytest.raises(OverloadedError, match="full"):
        ask(Teacher("text 3"), "big", TEXTS, LABELS, kept=KeptAnswers(file, "big", LABELS))
    assert f"1 of 40 texts are not answered; the others are in {file}" in caplog.text
    again = Teacher()
    done: list[int] = []
    kept = KeptAnswers(file, "big", LABELS)
    found = ask(again, "big", TEXTS, LABELS, done.append, kept)
    assert again.asked == ["text 3"]
    assert done == [40]
    assert found == pytest.approx(0.0 * found + [0.75, 0.25])


def test_a_service_that_is_gone_is_not_asked_for_ever(tmp_path: Path) -> None:
    texts = [f"text {at}" for at in range(500)]
    teacher = Teacher(*texts)
    with pytest.raises(OverloadedError, match="full"):
        ask(teacher, "big", texts, LABELS)
    assert len(teacher.asked) < 20


def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    ask(Teacher(), "big", TEXTS[:2], LABELS, kept=KeptAnswers(file, "big", LABELS))
    file.write_bytes(file.read_bytes()[:-5])
    kept = KeptAnswers(file, "big", LABELS)
    assert len(kept) == 1
    ask(Teacher(), "big", TEXTS[:2], LABELS, kept=kept)
    assert len(KeptAnswers(file, "big", LABELS)) == 2


@pytest.mark.parametrize(
    ("model", "labels", "words"),
    [("other", LABELS, "another model"), ("big", ("a", "c"), "another labels")],
)
def test_answers_of_something_else(
    tmp_path: Path, model: str, labels: tuple[str, ...], words: str
) -> None:
    file = tmp_path / "answers.jsonl"
    KeptAnswers(file, "big", LABELS)
    with pytest.raises(SettingsError, match=f"holds answers with {words}; name a new folder"):
        KeptAnswers(file, model, labels)
    file.write_text("no json\n")
    with pytest.raises(SettingsError, match=r"is damaged .*; remove it, and the teacher is asked"):
        KeptAnswers(file, "big", LABELS)
