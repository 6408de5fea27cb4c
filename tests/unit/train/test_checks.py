"""What is refused before a run begins."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ironcliw.errors import TrainingError
from tests.unit.train.tiny import make_job, make_model
from train.checks import check_tokens
from train.loop.run import StepReport
from train.outcome import read_outcome
from train.worker import work


def test_a_run_without_room_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path, make_model(tmp_path / "model"))
    monkeypatch.setattr("train.checks.available_bytes", lambda device: 10**6)
    monkeypatch.setattr("train.trained_model.load_base", lambda *_: pytest.fail("it was loaded"))
    work(job)
    with pytest.raises(TrainingError, match=r"needs about 0\.27 GB and 0\.00 GB are available"):
        read_outcome(job.uri)


def test_a_run_that_had_room_before_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(tmp_path, make_model(tmp_path / "model"))
    with pytest.raises(KeyboardInterrupt):
        work(job, report=_die)
    monkeypatch.setattr("train.checks.available_bytes", lambda device: 10**6)
    work(job)
    assert (read_outcome(job.uri) or {})["outcome"] == "finished"
    assert "needs about" in caplog.text


def _die(report: StepReport) -> None:
    if report.step == 3:
        raise KeyboardInterrupt


def test_tokens_that_the_model_does_not_know(tmp_path: Path) -> None:
    job = make_job(tmp_path, make_model(tmp_path / "model"))
    check_tokens("some", 64, job.train, job.held_out)
    tokens = job.train.tokens.copy()
    tokens[job.train.offsets[3]] = 64
    wrong = dataclasses.replace(job, train=dataclasses.replace(job.train, tokens=tokens))
    with pytest.raises(TrainingError, match=r"rows.jsonl:4 has token 64, and model 'some' knows"):
        check_tokens("some", 64, None, wrong.train)
    work(wrong)
    with pytest.raises(TrainingError, match=r"tokenizer\.json belongs to another model"):
        read_outcome(wrong.uri)
