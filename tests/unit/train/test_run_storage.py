"""Runs whose storage is full, goes away or comes back, in this process and without Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import CheckpointError, TrainingError
from tests.unit.train.test_worker import die, result, saved
from tests.unit.train.tiny import make_data, make_job, make_model
from train.checkpoint.faults import FaultAt, fail_with
from train.loop.run import StepReport
from train.outcome import read_outcome
from train.run_files import EVALUATION_PAGE, LOG, OUTCOME, PATIENCE, RunFiles
from train.worker import work


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def test_a_disk_that_is_full_ends_the_run_and_costs_no_saved_step(
    tmp_path: Path, model: Path
) -> None:
    whole, broken = (make_job(tmp_path / name, model) for name in ("a", "b"))
    work(whole)
    die(broken, 3)
    full = FaultAt("file-written", fail_with(OSError(28, "No space left on device")))
    work(broken, faults=full)
    with pytest.raises(TrainingError, match="No space left on device"):
        read_outcome(broken.uri)
    assert saved(broken).step == 2
    RunFiles(broken.uri).remove(OUTCOME)
    work(broken)
    assert result(whole) == result(broken)


def replace_by_a_file(folder: Path) -> None:
    """What no permission stops root from: a storage that can be neither read nor written."""
    folder.rename(folder.with_name("away"))
    folder.write_text("no folder")


def test_storage_that_stays_away_ends_the_run(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(tmp_path, model)
    steps: list[int] = []

    def vanishes(at: StepReport) -> None:
        steps.append(at.step)
        if at.step == 2:
            replace_by_a_file(Path(job.uri))

    # returning, not raising: Ray Train would start it again, and again
    work(job, report=vanishes)
    assert 2 <= steps[-1] < 8
    assert "the failure is not written down either" in caplog.text
    caplog.clear()
    work(job, report=vanishes)
    assert "outcome.json cannot be read" in caplog.text
    # the storage is back
    Path(job.uri).unlink()
    Path(job.uri).with_name("away").rename(job.uri)
    work(job)
    assert read_outcome(job.uri) is not None


def test_storage_that_comes_back_is_waited_for(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = (make_job(tmp_path / name, model) for name in ("a", "b"))
    work(whole)
    # as a bucket's client after all its own tries
    lost = FaultAt("file-written", fail_with(ConnectionResetError("reset by peer")))
    with pytest.raises(CheckpointError, match="reset by peer"):
        work(broken, faults=lost)
    assert read_outcome(broken.uri) is None, "whoever is started again goes on"
    waits: list[float] = []
    real, fails = RunFiles.read, iter([True, True])

    def read(self: RunFiles, name: str) -> dict[str, Any] | None:
        if name == OUTCOME and next(fails, False):
            raise CheckpointError("it cannot be read") from TimeoutError("no answer")
        return real(self, name)

    monkeypatch.setattr(RunFiles, "read", read)
    patient = dataclasses.replace(PATIENCE, sleep=waits.append)
    monkeypatch.setattr("train.worker.PATIENCE", patient)
    work(broken)
    assert len(waits) == 2
    assert result(whole) == result(broken)


def test_the_outcome_is_written_when_all_it_tells_of_is_durable(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, model, max_steps=1)
    job = dataclasses.replace(job, held_out=make_data(7, seed=5))
    synced: list[Path] = []
    before: list[Path] = []
    real = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if Path(target).name == OUTCOME:
            before.extend(synced)
        return real(self, target)

    monkeypatch.setattr("train.run_files.sync", synced.append)
    monkeypatch.setattr(Path, "replace", replace)
    work(job)
    run = Path(job.uri)
    adapter = run / "adapter"
    results = [adapter / name for name in ("adapter_config.json", "adapter_model.safetensors")]
    assert {*results, adapter, run} <= set(before)
    # what is renamed is synced under the name that it is written by
    names = {path.name.partition(".new")[0].rpartition(".")[0] for path in before}
    assert {LOG, EVALUATION_PAGE, OUTCOME} <= names
    assert synced[-1] == run, "and the name of the outcome"


@pytest.mark.parametrize("full", ["adapter_model.safetensors", LOG, EVALUATION_PAGE, OUTCOME])
def test_a_disk_that_is_full_at_the_end_costs_no_result(
    full: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = (
        dataclasses.replace(make_job(tmp_path / name, model), held_out=make_data(7, seed=5))
        for name in ("a", "b")
    )
    work(whole)

    def sync(path: Path) -> None:
        # a file system that gives room late says so here, others when the bytes are written
        if path.name.startswith(full):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("train.run_files.sync", sync)
        work(broken)
    assert not list(Path(broken.uri).rglob("*.new"))
    if full == OUTCOME:
        # it cannot be written down either; who waits for the run finds that there is none
        assert read_outcome(broken.uri) is None
    else:
        with pytest.raises(TrainingError, match=r"No space left .* and has room"):
            read_outcome(broken.uri)
        RunFiles(broken.uri).remove(OUTCOME)
    work(broken)
    assert result(whole) == result(broken)
