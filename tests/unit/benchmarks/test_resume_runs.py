"""What the proof of resumes compares: weights, and a log with measures of held-out rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import BenchmarkError
from benchmarks.resume_proof import CASES, chosen_cases, main
from benchmarks.resume_runs import make_job, make_model, result
from train.worker import work


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_every_kind_of_run_holds_rows_out(changes: dict[str, Any], tmp_path: Path) -> None:
    job = make_job(tmp_path, tmp_path / "model", changes)
    assert job.held_out is not None and len(job.held_out) > 0


def test_a_run_that_measures_nothing_proves_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path / "a", make_model(tmp_path / "models" / "model"), {"max_steps": 1})
    work(job)
    found = result(job)
    other = dataclasses.replace(job, uri=str(tmp_path / "b"), held_out=None)
    work(other)
    with pytest.raises(BenchmarkError, match="measured nothing"):
        result(other)
    assert len(found) == 64


def test_a_slice_is_of_one_kind_or_of_those_that_are_named() -> None:
    assert chosen_cases("", is_slice=False) == CASES
    assert list(chosen_cases("", is_slice=True)) == ["LoRA, dropout"]
    for is_slice in (True, False):
        named = chosen_cases("two workers", is_slice=is_slice)
        assert len(named) == 6
        assert all(changes["workers"] == 2 for changes in named.values())


def test_words_that_no_kind_has_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["resume_proof", "--slice", "--only", "embedings"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "--only 'embedings': no kind has these words; kinds are LoRA; " in told
