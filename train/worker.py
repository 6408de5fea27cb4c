"""What each worker of a run does, from its start to its end; Ray Train calls `work`.

Returning tells Ray Train that the run is over, raising that all workers are to be started again:
for a machine that ends, and a peer that is gone. Any other error would come again; it is written
down as the run's outcome, which a worker that is started again finds, and returns.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.handover import Handover
from ironcliw.errors import CheckpointError, IroncliwError, TrainingError
from ironcliw.settings import Settings
from train.checkpoint.faults import Faults
from train.checkpoint.store import CheckpointStore
from train.checkpoint.writer import AsyncWriter
from train.checks import check_room, check_tokens
from train.config import TrainingConfig
from train.data.plan import StepPlan
from train.data.tokenized import TokenizedData
from train.evaluate import Evaluator
from train.fingerprint import Fingerprint, digest_of
from train.loop.compute import Computer
from train.loop.flat import FlatParameters
from train.loop.optimizer import Optimizer
from train.loop.reduce import Alone, Group, PeerLostError
from train.loop.run import Ending, Parts, StepReport, TrainingRun
from train.loop.saving import Saver
from train.loop.schedule import LearningRate, warmup_steps
from train.model import packed_attention
from train.model.adapters import add_adapters, trainable
from train.model.fast_layers import replace_forwards
from train.model.fused import fuse
from train.model.load import (
    choose_device,
    choose_dtype,
    load_base,
    model_folder,
    weights_digest,
)
from train.model.nf4 import quantize_layers
from train.run_files import ADAPTER, ATTEMPTS, CHECKPOINTS, LOG, MODEL, OUTCOME, RunFiles

logger = logging.getLogger(__name__)


class MachineEndsError(TrainingError):
    """All is saved; to be run again on another machine."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all workers of a run are given.

    Attributes:
        config: Of the run.
        settings: Of the head, for catalogue and folders.
        uri: Of the run's folder.
        train: Tokenised rows.
        held_out: Rows to measure on; None: there are none.
        threads: Of each worker.
    """

    config: TrainingConfig
    settings: Settings
    uri: str
    train: TokenizedData
    held_out: TokenizedData | None
    threads: int


def work(
    job: Job,
    group: Group | None = None,
    report: Callable[[StepReport], None] = lambda report: None,
    faults: Faults | None = None,
) -> None:
    """One attempt.

    Args:
        job: The run.
        group: The workers; None: this one alone.
        report: Called after each step, on the first worker.
        faults: What happens in a checkpoint's commit; for tests.

    Raises:
        MachineEndsError: this machine, or that of another worker, is about to end.
        PeerLostError: another worker is gone.
    """
    group = group or Alone()
    files = RunFiles(job.uri)
    if files.read(OUTCOME) is not None:
        return
    try:
        _count_attempt(job, files, group)
        ending = _attempt(job, files, group, report, faults)
    except (MachineEndsError, PeerLostError):
        raise
    except Exception as error:
        # the attempt's boundary: whatever it is, another attempt would end in the same way
        logger.exception("the run has failed")
        message = error.message if isinstance(error, IroncliwError) else repr(error)
        files.write(OUTCOME, {"outcome": "failed", "error": message, "rank": group.rank})
        if group.size > 1:
            raise  # the others wait for this one; they are started again, too, and see the outcome
        return
    if ending is Ending.NOTICE:
        if group.rank == 0:
            # an end that was announced is no failure
            files.remove(ATTEMPTS)
        raise MachineEndsError("a machine of this run is taken back; all is saved")


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
) -> Ending:
    torch.set_num_threads(job.threads)
    config = job.config
    device = choose_device()
    # a weight in bfloat16 would lose the small steps that it is trained by
    dtype = choose_dtype(config.precision, device) if config.use_lora else torch.float32
    folder = model_folder(config.model_name, job.settings)
    check_room(config, folder, dtype, device, group.size, begun=_begun(files))
    base = load_base(config.model_name, folder, weights_digest(folder), dtype, device)
    known = base.module.get_input_embeddings().num_embeddings
    check_tokens(config.model_name, known, job.train, job.held_out)
    if config.quantization == "nf4":
        quantize_layers(base.module, base.module.get_output_embeddings())
    model = add_adapters(base, config) if config.use_lora else base.module
    fused = fuse(model) if config.use_lora else 0
    fast = replace_forwards(model, dtype, device)
    if config.gradient_checkpointing:
        base.module.activation_checkpointing_enable()
    logger.info(
        "model %s in %s on %s, %d groups of layers fused, %d modules compiled",
        config.model_name,
        dtype,
        device,
        fused,
        fast,
    )
    plan = StepPlan(
        job.train,
        seed=config.seed,
        batch_size=config.batch_size,
        shards=config.shards,
        micro_batch_tokens=config.micro_batch_tokens,
    )
    fingerprint = Fingerprint.here(
        model=config.model_name,
        model_digest=base.digest,
        data_digest=job.train.digest,
        config_digest=digest_of(config.numbers()),
        dtype=dtype,
        micro_batch_tokens=config.micro_batch_tokens,
        shards=config.shards,
        attention=packed_attention.NAME,
        device=device,
        world_size=group.size,
    )
    steps = total_steps(config, plan.steps_per_epoch)
    is_first = group.rank == 0
    store = CheckpointStore(
        files.path(CHECKPOINTS), keep=config.checkpoint.keep, faults=faults, read_only=not is_first
    )
    checkpoint = store.newest(fingerprint, allow_inexact=config.allow_inexact)
    computer = Computer(model, device)
    flat = FlatParameters(trainable(model))
    evaluator = Evaluator(computer, job.held_out, config, plan.steps_per_epoch)
    with _notice(job, group) as notice:
        run = TrainingRun(
            Parts(
                plan=plan,
                data=job.train,
                computer=computer,
                flat=flat,
                optimizer=Optimizer(flat, config),
                schedule=LearningRate(
                    config.learning_rate,
                    steps,
                    warmup_steps(config.warmup_steps, config.warmup_share, steps),
                    config.schedule,
                ),
                group=group,
                fingerprint=fingerprint,
                saver=Saver(
                    AsyncWriter(store),
                    config.checkpoint,
                    group.size,
                    checkpoint.step if checkpoint else 0,
                )
                if is_first
                else None,
                seed=config.seed,
                evaluate=(lambda step: evaluator.measure(step, steps, notice))
                if is_first and job.held_out is not None
                else None,
                notice=notice,
                report=report if is_first else lambda report: None,
            )
        )
        if checkpoint is not None:
            run.restore(checkpoint)
            logger.info("goes on after step %d of %d", run.step, steps)
        ending = run.run()
    if ending is Ending.FINISHED and is_first:
        _keep_result(job, files, model, run)
    return ending


def _begun(files: RunFiles) -> bool:
    """Whether anything was saved before."""
    return bool(CheckpointStore(files.path(CHECKPOINTS), read_only=True).all())


def total_steps(config: TrainingConfig, per_epoch: int) -> int:
    """Optimizer steps of the whole run."""
    steps = config.num_epochs * per_epoch
    return steps if config.max_steps is None else min(steps, config.max_steps)


@contextlib.contextmanager
def _notice(job: Job, group: Group) -> Iterator[Callable[[], bool]]:
    """Whether this machine ends soon; its agent waits for the save while this is open."""
    folder = job.settings.handover_dir
    if folder is None:
        yield lambda: False
        return
    handover = Handover(folder)
    name = f"train-{os.getpid()}-{group.rank}"
    handover.register(name)
    try:
        yield lambda: handover.notice() is not None
    finally:
        if handover.notice() is None:
            handover.unregister(name)
        else:
            handover.done(name)


def _keep_result(job: Job, files: RunFiles, model: Any, run: TrainingRun) -> None:
    """The adapter or model and the log; the outcome last, since it says that the rest is there."""
    kind = ADAPTER if job.config.use_lora else MODEL
    with tempfile.TemporaryDirectory(prefix="ironcliw-train-") as folder:
        model.save_pretrained(folder, safe_serialization=True)
        files.upload(Path(folder), kind)
    files.write_text(LOG, run.log.text)
    evaluations = [line for line in run.log.lines() if line.get("event") == "evaluation"]
    files.write(
        OUTCOME,
        {
            "outcome": "finished",
            "steps": run.step,
            "chain": run.log.chain,
            "result": files.path(kind),
            "evaluation": evaluations[-1] if evaluations else None,
            "before": evaluations[0] if evaluations and evaluations[0]["step"] == 0 else None,
        },
    )


def read_outcome(uri: str) -> dict[str, Any] | None:
    """How a run ended; None: it has not.

    Raises:
        TrainingError: it failed; the message is the worker's.
        CheckpointError: the storage cannot be read.
    """
    found = RunFiles(uri).read(OUTCOME)
    if found is not None and found.get("outcome") == "failed":
        raise TrainingError(str(found["error"]))
    if found is not None and found.get("outcome") != "finished":
        raise CheckpointError(f"{uri}/{OUTCOME} says {found!r}, which no release writes")
    return found
