"""When the workers of a run meet: nobody leaves before all is durable."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from ironcliw.errors import TrainingError
from tests.unit.train.tiny import make_data, make_job, make_model
from train.checkpoint.snapshot import Snapshot
from train.checkpoint.store import CheckpointStore
from train.data.plan import PackedBatch
from train.job import Job
from train.loop.compute import Computer, Examined
from train.loop.reduce import Alone, PeerLostError
from train.outcome import read_outcome
from train.run_files import CHECKPOINTS
from train.worker import MachineEndsError, work


class Witness(Alone):
    """A group of one that writes down when it would meet others."""

    def __init__(self, noticed_step: int | None = None) -> None:
        self.events: list[str] = []
        self._noticed_step = noticed_step
        self._steps = 0

    def gather(self, part: torch.Tensor) -> Sequence[torch.Tensor]:
        self._steps += 1
        if self._steps == self._noticed_step:
            part[-1] = 1.0  # what the other worker would have said
        self.events.append("noticed" if bool(part[-1]) else "gathered")
        return [part]

    def agree(self, step: int) -> None:
        self.events.append(f"agreed on {step}")


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    found, commit = Witness(), CheckpointStore.commit

    def committed(self: CheckpointStore, snapshot: Snapshot) -> object:
        manifest = commit(self, snapshot)
        found.events.append(f"saved {snapshot.step}")
        return manifest

    monkeypatch.setattr(CheckpointStore, "commit", committed)
    return found


@pytest.fixture
def job(tmp_path: Path) -> Job:
    model = make_model(tmp_path / "model")
    return make_job(tmp_path, model, checkpoint={"every": 100}, max_steps=3)


def test_a_run_without_trouble_meets_once_a_step(job: Job, witness: Witness) -> None:
    work(job, witness)
    assert witness.events == ["agreed on 0", *["gathered"] * 3, "saved 3"]


def test_after_a_notice_all_wait_for_the_save(job: Job, witness: Witness) -> None:
    witness._noticed_step = 3
    with pytest.raises(MachineEndsError):
        work(job, witness)
    assert witness.events[-3:] == ["noticed", "saved 2", "agreed on 2"]


def test_after_a_loss_that_is_no_number_all_wait_for_the_save(
    job: Job, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Computer, "backward", lambda self, batch: math.nan)
    work(job, witness)
    with pytest.raises(TrainingError, match="step 0: the loss is nan"):
        read_outcome(job.uri)
    assert witness.events == ["agreed on 0", "gathered", "saved 0", "agreed on 0"]


def test_a_notice_while_the_run_is_measured_ends_it(
    job: Job, witness: Witness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("hooks", "done"):
        (tmp_path / "handover" / name).mkdir(parents=True)
    real = Computer.examine

    def measured(self: Computer, batch: PackedBatch, **given: bool) -> Examined:
        text = json.dumps({"at": 0.0, "deadline": 30.0})
        (tmp_path / "handover" / "notice.json").write_text(text)
        return real(self, batch, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(Computer, "examine", measured)
    settings = job.settings.model_copy(update={"handover_dir": tmp_path / "handover"})
    job = dataclasses.replace(job, settings=settings, held_out=make_data(9, seed=5))
    with pytest.raises(MachineEndsError):
        work(job, witness)
    assert witness.events == ["agreed on 0", "saved 0", "agreed on 0"]
    found = CheckpointStore(f"{job.uri}/{CHECKPOINTS}", read_only=True).newest()
    assert found is not None
    assert found.state["log"] == "", "half a measure was logged"


def test_a_lost_peer_is_no_outcome(
    job: Job, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(step: int) -> None:
        raise PeerLostError("another worker is gone")

    monkeypatch.setattr(witness, "agree", lost)
    with pytest.raises(PeerLostError):
        work(job, witness)
    assert read_outcome(job.uri) is None
