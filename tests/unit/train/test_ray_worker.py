"""Which settings count on the machine that computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ironcliw.settings import Settings
from tests.unit.train.tiny import make_job
from train.ray_worker import on_this_machine


def test_a_machine_in_the_cloud_has_folders_of_its_own(tmp_path: Path) -> None:
    """The notice of its end is where its agent writes it, not where the head would look."""
    models = {"mine": {"source": "dir:/models/mine", "task": "generation"}}
    head = Settings.model_validate({"state_dir": "/head/state", "models": models})
    job = dataclasses.replace(make_job(tmp_path, tmp_path / "model"), settings=head)
    here = Settings(state_dir=Path("/vm/state"), handover_dir=Path("/run/handover"))
    found = on_this_machine(job, here).settings
    assert found.handover_dir == Path("/run/handover")
    assert found.state_dir == Path("/vm/state")
    assert found.models == head.models


def test_on_the_heads_own_machine_the_job_stays_as_it_is(tmp_path: Path) -> None:
    job = make_job(tmp_path, tmp_path / "model")
    assert on_this_machine(job, Settings(state_dir=Path("/elsewhere"))) is job
