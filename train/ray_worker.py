"""What Ray Train's workers call. They import this module and what it names, so it names little."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ironcliw.settings import Settings, load_settings
from train.job import Job
from train.loop.reduce import ProcessGroup
from train.progress import Progress
from train.worker import work


def train_worker(given: dict[str, Any]) -> None:
    """One worker of Ray Train's, from its start to its end.

    Args:
        given: `job`, a reference to the `Job`, and `progress`, where its steps are told.
    """
    import ray
    import torch

    job: Job = ray.get(given["job"])
    progress: Progress = given["progress"]
    group = ProcessGroup() if torch.distributed.get_world_size() > 1 else None
    work(on_this_machine(job, load_settings()), group, progress.send)


def on_this_machine(job: Job, here: Settings) -> Job:
    """The run with the folders of the machine that computes it.

    A machine in the cloud tells of its end in a folder of its own, and the head's state directory
    is not there.

    Args:
        job: As the head made it.
        here: Settings of this process.
    """
    if here.handover_dir is None:
        return job
    own = {"handover_dir": here.handover_dir, "state_dir": here.state_dir}
    return replace(job, settings=job.settings.model_copy(update=own))
