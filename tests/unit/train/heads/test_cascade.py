"""A cascade's numbers keep the accuracy that was asked for, on answers made up to be known."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.cli import main
from ironcliw.client import Classification, Served
from ironcliw.errors import DataError
from ironcliw.setting_sections import CascadeStep
from train.heads.cascade_command import milliseconds_alone
from train.heads.cascade_fit import (
    FittedStep,
    Said,
    fit_cascade,
    measure_cascade,
    milliseconds,
    settings_lines,
    temperature_of,
)
from train.heads.cascade_make import CascadePlan, make_cascade

LABELS = ("food", "music", "sport", "travel")


def said(
    model: str, skill: float, answers: Any, seed: int, heat: float = 1.0, ms: float = 1.0
) -> Said:
    """Honest probabilities at the temperature `heat`: the surer, the oftener right."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1, (len(answers), len(LABELS)))
    logits[np.arange(len(answers)), answers] += random.exponential(skill, len(answers))
    powers = np.exp(logits * heat)
    return Said(model, powers / powers.sum(1, keepdims=True), ms)


def world(seed: int = 0, count: int = 4000) -> tuple[list[Said], Any]:
    answers = np.random.default_rng(seed).integers(0, len(LABELS), count)
    steps = [
        said("head", 3, answers, seed + 1, ms=1),
        said("lm", 4, answers, seed + 2, heat=3, ms=10),
        said("nli", 9, answers, seed + 3, ms=100),
    ]
    return steps, answers


@pytest.mark.parametrize(("seed", "slack"), [(0, 1e-9), (50, 0.01)])
def test_the_accuracy_is_kept_and_time_is_saved(seed: int, slack: float) -> None:
    fitted = fit_cascade(*world(), 0.01)
    steps, answers = world(seed)  # the texts that were fitted to, and others
    measured, accuracy = measure_cascade(steps, fitted, answers)
    assert accuracy >= measured[-1].alone - 0.01 - slack
    assert measured[0].share > 0.1
    assert sum(each.share for each in measured) == pytest.approx(1)
    assert milliseconds(steps, fitted, measured) < 95


def test_nothing_lower_would_do() -> None:
    steps, answers = world()
    fitted = fit_cascade([steps[0], steps[2]], answers, 0.01)
    least = fitted[0].confidence
    assert least is not None
    alone = measure_cascade(steps[2:], fitted[1:], answers)[1]

    def accuracy(confidence: float) -> float:
        first = FittedStep("head", fitted[0].temperature, confidence)
        return measure_cascade([steps[0], steps[2]], [first, fitted[1]], answers)[1]

    assert accuracy(least) >= alone - 0.01 - 1e-9
    assert all(accuracy(least - step) < alone - 0.01 for step in (0.005, 0.01, 0.05, 0.1))
    more = fit_cascade([steps[0], steps[2]], answers, 0.1)[0].confidence
    assert more is not None
    assert more < least


def test_a_temperature_undoes_what_made_a_step_too_sure() -> None:
    answers = np.random.default_rng(0).integers(0, 4, 4000)
    honest = temperature_of(said("a", 3, answers, 1).probabilities, answers)
    hot = temperature_of(said("a", 3, answers, 1, heat=3).probabilities, answers)
    assert hot == pytest.approx(3 * honest, rel=0.01)


def test_a_step_that_is_of_no_use_is_left_out() -> None:
    steps, answers = world()
    last = Said("nli", steps[2].probabilities, 100)
    wrong = Said("wrong", np.eye(4)[(answers + 1) % 4], 5)
    fitted = fit_cascade([wrong, last], answers, 0.0)
    assert fitted[0].confidence is None
    measured, accuracy = measure_cascade([wrong, last], fitted, answers)
    assert (measured[0].share, accuracy) == (0.0, measured[1].alone)
    assert milliseconds([wrong, last], fitted, measured) == 100
    lines = settings_lines("router", fitted)
    assert lines[0] == "# wrong is left out: no confidence keeps the accuracy"
    assert len(tomllib.loads("\n".join(lines))["serve"]["cascades"]["router"]) == 1


def test_what_a_step_refuses_goes_on() -> None:
    steps, answers = world()
    refused = Said("head", np.where(answers[:, None] == 0, 0.0, steps[0].probabilities))
    fitted = fit_cascade([refused, steps[2]], answers, 0.05)
    measured, _ = measure_cascade([refused, steps[2]], fitted, answers)
    assert 0 < measured[0].share <= (answers != 0).mean()
    # a last step that refuses is wrong
    swapped, _ = measure_cascade([steps[2], refused], fitted[::-1], answers)
    assert swapped[1].alone <= (answers != 0).mean()


def rows(file: Path, count: int) -> Path:
    lines = [
        json.dumps({"text": f"{LABELS[at % 4]} {at}", "label": LABELS[at % 4]})
        for at in range(count)
    ]
    file.write_text("\n".join(lines))
    return file


def test_from_files_to_lines_of_the_settings(tmp_path: Path) -> None:
    file = rows(tmp_path / "rows.jsonl", 200)
    asked: list[str] = []

    def ask(model: str, texts: Sequence[str], labels: Sequence[str]) -> Any:
        asked.append(model)
        answers = np.array([labels.index(text.split()[0]) for text in texts])
        return said(model, {"head": 3, "nli": 20}[model], answers, 7).probabilities

    plan = CascadePlan("router", ("head", "nli"), (str(file),), (), 0.02)
    found = make_cascade(plan, ask, lambda model, texts, labels: {"head": 1.0, "nli": 50.0}[model])
    assert asked == ["head", "nli"]
    assert 60 < found.texts < 140
    steps = tomllib.loads("\n".join(found.settings_lines()))["serve"]["cascades"]["router"]
    assert [CascadeStep.model_validate(each).model for each in steps] == ["head", "nli"]
    assert 0 < steps[0]["confidence"] <= 1
    assert "confidence" not in steps[1]
    written = found.as_json()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert written["milliseconds"] < 50
    heading, table = found.table()
    assert [len(row) for row in table] == [len(heading)] * 2
    assert "the last step alone" in found.summary()


def test_the_time_is_that_of_texts_that_nobody_has_asked_before() -> None:
    """The service keeps vectors: what was asked for the fit would cost the timed step nothing."""
    asked: list[str] = []

    class Client:
        def classify(self, text: str, labels: Sequence[str], *, model: str) -> Classification:
            asked.append(text)
            served = Served(model, "local", "node", None, None)
            return Classification(text, dict.fromkeys(labels, 0.5), served)

    texts = ["wake me", "play a song"]
    assert milliseconds_alone(Client(), "head", texts, LABELS) >= 0
    milliseconds_alone(Client(), "head", texts, LABELS)
    assert len(set(asked)) == 4 and not set(asked) & set(texts)
    assert [text.startswith(texts[at % 2]) for at, text in enumerate(asked)] == [True] * 4


def test_too_few_rows(tmp_path: Path) -> None:
    plan = CascadePlan("router", ("a", "b"), (str(rows(tmp_path / "r.jsonl", 30)),), (), 0.0)
    with pytest.raises(DataError, match="20 of each are the fewest: give more"):
        make_cascade(plan, lambda *given: np.zeros((0, 0)), lambda *given: 0.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "cascade router has 0 steps; give two or more with --step"),
        (("--step", "a"), "cascade router has 1 steps"),
        (("--loss", "1.5"), "--loss is 1.5; a share of the texts is expected"),
    ],
)
def test_commands_that_cannot_be(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["train", "cascade", "--name", "router", "--rows", "r.jsonl", *words])
    assert ended.value.code == 4
    assert message in " ".join(capsys.readouterr().err.split())
