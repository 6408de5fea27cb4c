"""One attempt after the other of a run, in this process, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.unit.train.tiny import make_job, make_model
from train.loop.log import check
from train.loop.run import StepReport
from train.run_files import LOG
from train.worker import Job, read_outcome, work


def dies_at(step: int) -> Callable[[StepReport], None]:
    def report(at: StepReport) -> None:
        if at.step == step:
            raise KeyboardInterrupt  # not an Exception: as sudden as a test can be

    return report


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def result(job: Job) -> tuple[dict[str, bytes], str]:
    weights = load_file(Path(job.uri) / "adapter" / "adapter_model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}, (
        Path(job.uri) / LOG
    ).read_text()


def test_a_run_ends_with_an_adapter_and_a_log(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path, model)
    steps: list[StepReport] = []
    work(job, report=steps.append)
    outcome = read_outcome(job.uri)
    assert outcome is not None
    assert outcome["outcome"] == "finished"
    assert outcome["steps"] == 8 == len(steps)
    weights, log = result(job)
    assert check(log) == 8
    assert steps[-1].loss < steps[0].loss
    assert len(weights) == 2 * 2 * 7


def test_a_run_that_dies_after_every_step_has_the_same_bits(tmp_path: Path, model: Path) -> None:
    whole, broken = make_job(tmp_path / "a", model), make_job(tmp_path / "b", model)
    work(whole)
    for step in range(1, 9):
        with pytest.raises(KeyboardInterrupt):
            work(broken, report=dies_at(step))
    work(broken)
    assert result(whole) == result(broken)
