"""What the proof of resumes compares: weights, and a log with measures of held-out rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import BenchmarkError
from benchmarks.resume_proof import CASES
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
