"""What each worker of a run does, from its start to its end; Ray Train calls `work`.

Returning tells Ray Train that the run is over, raising that all workers are to be started again:
for a machine that ends, and a peer that is gone. Any other error would come again; it is written
down as the run's outcome, which a worker that is started again finds, and returns.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from cluster.handover import Handover
from ironcliw.errors import TrainingError
from train.assembly import assemble
from train.checkpoint.faults import Faults
from train.checkpoint.store import CheckpointStore
from train.job import Job
from train.loop.reduce import Alone, Group, PeerLostError
from train.loop.run import Ending, MachineEndsError, StepReport
from train.outcome import write_failure, write_result
from train.run_files import ATTEMPTS, CHECKPOINTS, OUTCOME, RunFiles

logger = logging.getLogger(__name__)

BEGINS = "worker %d of %d begins"
"""Message that ends a worker's start, by which this is timed."""


def work(
    job: Job,
    group: Group | None = None,
    report: Callable[[StepReport], None] = lambda report: None,
    faults: Faults | None = None,
    listen: Callable[[Mapping[str, Any]], None] = lambda line: None,
) -> None:
    """One attempt.

    Args:
        job: The run.
        group: The workers; None: this one alone.
        report: Called after each step, on the first worker.
        faults: What happens in a checkpoint's commit; for tests.
        listen: Called with each line of the log, on the first worker; a resumed run's from before
            come first.

    Raises:
        MachineEndsError: this machine, or that of another worker, is about to end.
        PeerLostError: another worker is gone.
    """
    group = group or Alone()
    logger.info(BEGINS, group.rank + 1, group.size)
    files = RunFiles(job.uri)
    if files.read(OUTCOME) is not None:
        return
    try:
        _count_attempt(job, files, group)
        _attempt(job, files, group, report, faults, listen)
    except MachineEndsError:
        if group.rank == 0:
            # an end that was announced is no failure
            files.remove(ATTEMPTS)
        raise
    except PeerLostError:
        raise
    except Exception as error:
        # the attempt's boundary: whatever it is, another attempt would end in the same way
        logger.exception("the run has failed")
        write_failure(files, error, group.rank)
        if group.size > 1:
            raise  # the others wait for this one; they are started again, too, and see the outcome


def _count_attempt(job: Job, files: RunFiles, group: Group) -> None:
    """Refuse another attempt where the last ones brought the run no step further.

    Raises:
        TrainingError: there were too many.
    """
    if group.rank != 0:
        return
    newest = CheckpointStore(files.path(CHECKPOINTS), read_only=True).all()
    step = newest[0].step if newest else 0
    before = files.read(ATTEMPTS) or {"step": step, "attempts": 0}
    attempts = before["attempts"] + 1 if before["step"] == step else 1
    files.write(ATTEMPTS, {"step": step, "attempts": attempts})
    most = job.config.max_failures
    if 0 <= most < attempts - 1:
        files.remove(ATTEMPTS)  # who submits it again means it
        raise TrainingError(
            f"{attempts - 1} attempts ended at step {step}, and max_failures is {most}; see the "
            "workers' logs in the Ray dashboard (out of memory?), then submit the run again"
        )


def _attempt(
    job: Job,
    files: RunFiles,
    group: Group,
    report: Callable[[StepReport], None],
    faults: Faults | None,
    listen: Callable[[Mapping[str, Any]], None],
) -> None:
    torch.set_num_threads(job.threads)
    folder = job.settings.handover_dir
    handover = None if folder is None else Handover(folder)
    made = assemble(job, files, group, lambda: _is_noticed(handover), report, faults, listen)
    with contextlib.closing(made.recorder):
        with _hook(handover, f"train-{os.getpid()}-{group.rank}"):
            ending = made.run.run()
        if ending is Ending.NOTICE:
            raise MachineEndsError("a machine of this run is taken back; all is saved")
        if group.rank == 0:
            write_result(job, files, made.model, made.run, made.recorder)


def _is_noticed(handover: Handover | None) -> bool:
    """Whether this machine ends soon."""
    return handover is not None and handover.notice() is not None


@contextlib.contextmanager
def _hook(handover: Handover | None, name: str) -> Iterator[None]:
    """The machine's agent waits for the save while this is open."""
    if handover is None:
        yield
        return
    handover.register(name)
    try:
        yield
    finally:
        if handover.notice() is None:
            handover.unregister(name)
        else:
            handover.done(name)
