"""What each worker of a run does, from its start to its end; Ray Train calls `work`.

Returning tells Ray Train that the run is over, raising that all workers are to be started again:
for a machine that ends, a peer that is gone, and storage that cannot be reached for a while. Any
other error would come again; it is written down as the run's outcome, which a worker that is
started again finds, and returns. Ray Train itself starts a run again for ever. So where nothing can
be written down, neither an outcome nor how often it was tried, the workers return too, and who
waits for the run finds that it has no outcome.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from cluster.handover import Handover
from ironcliw.buckets import shown
from ironcliw.errors import CheckpointError, TrainingError
from ironcliw.retries import is_transient
from train.assembly import Assembled, Attempt, assemble
from train.checkpoint.faults import Faults
from train.checkpoint.store import CheckpointStore
from train.job import Job
from train.loop.reduce import Alone, Group, PeerLostError
from train.loop.run import Ending, MachineEndsError, StepReport
from train.outcome import write_failure, write_result
from train.run_files import ATTEMPTS, CHECKPOINTS, OUTCOME, PATIENCE, RunFiles

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
        Exception: of a storage that may be there again in a while.
    """
    group = group or Alone()
    logger.info(BEGINS, group.rank + 1, group.size)
    files = _begun(job, group)
    if files is None:
        return
    try:
        _attempt(job, files, group, report, faults, listen)
    except MachineEndsError:
        if group.rank == 0:
            _forget_attempts(files)
        raise
    except PeerLostError:
        raise
    except Exception as error:
        # the attempt's boundary: whatever else it is, another attempt would end in the same way
        if is_transient(error):
            logger.warning("the run is to be started again: %s", error)
            raise
        _give_up(job, error, group.rank)
        if group.size > 1:
            raise  # the others wait for this one; they are started again, too, and see the outcome


def _begun(job: Job, group: Group) -> RunFiles | None:
    """The run's files, if there is anything to do; all workers find the same.

    Storage that cannot be reached is waited for: on a machine without a network an attempt would
    end, and be started again, until all are used up.

    Returns:
        None where the run is over, or its storage cannot be used.

    Raises:
        PeerLostError: another worker is gone.
    """
    files = None
    try:
        files = PATIENCE.call(lambda: _opened(job, group), f"beginning with {shown(job.uri)}")
    except Exception as error:  # noqa: BLE001  # the attempt's boundary, as in `work`
        _give_up(job, error, group.rank)
    told = group.numbers([float(files is None)])
    return None if any(is_over for (is_over,) in told) else files


def _opened(job: Job, group: Group) -> RunFiles | None:
    files = RunFiles(job.uri)
    if files.read(OUTCOME) is not None:
        return None
    _count_attempt(job, files, group)
    return files


def _give_up(job: Job, error: Exception, rank: int) -> None:
    """Write down that the run has failed, or at least say it."""
    logger.error("the run has failed", exc_info=error)
    try:
        write_failure(RunFiles(job.uri), error, rank)
    except CheckpointError as unwritten:
        logger.error("the failure is not written down either: %s", unwritten.message)


def _forget_attempts(files: RunFiles) -> None:
    """An end that was announced is no failure."""
    try:
        files.remove(ATTEMPTS)
    except CheckpointError as error:
        logger.warning("an announced end counts as a failure: %s", error.message)


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
    attempt = Attempt(job, files, group, lambda: _is_noticed(handover), report, faults, listen)
    make, guarded = _ways(job)
    with guarded:
        made = make(attempt)
        with contextlib.closing(made.recorder):
            with _hook(handover, f"train-{os.getpid()}-{group.rank}"):
                ending = made.run.run()
            if ending is Ending.NOTICE:
                raise MachineEndsError("a machine of this run is taken back; all is saved")
            if group.rank == 0:
                write_result(job, files, made.save, made.run, made.recorder)
            else:
                made.save(None)


def _ways(
    job: Job,
) -> tuple[Callable[[Attempt], Assembled], contextlib.AbstractContextManager[None]]:
    """How the run is put together, and what its collectives' failures are taken for."""
    if not job.config.sharding.is_on:
        return assemble, contextlib.nullcontext()
    # not at the top: torch takes its time to import FSDP2, which most runs do without
    from train.sharding.assembly import assemble_sharded
    from train.sharding.signals import peers

    # they are everywhere in it: in loading, in passes, in measures and in the export
    return assemble_sharded, peers()


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
