"""A run put together from its configuration: the model, what it reads, and where it is saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.checkpoint.faults import Faults
from train.checkpoint.snapshot import Checkpoint
from train.checkpoint.store import CheckpointStore
from train.checkpoint.writer import AsyncWriter
from train.config import TrainingConfig
from train.data.plan import StepPlan
from train.embedding.encoder import Encoder
from train.embedding.evaluation import EmbeddingEvaluator
from train.embedding.objective import EmbeddingLoss
from train.evaluation.evaluator import Evaluator
from train.evaluation.held_out import held_out_digest
from train.fingerprint import Fingerprint, digest_of
from train.job import Job
from train.loop.compute import Computer
from train.loop.flat import FlatParameters
from train.loop.objective import Objective
from train.loop.optimizer import Optimizer
from train.loop.reduce import Group
from train.loop.run import Parts, StepReport, TrainingRun
from train.loop.saving import Saver
from train.loop.schedule import LearningRate, warmup_steps
from train.model import packed_attention
from train.model.adapters import trainable
from train.objectives import Place, held_out_objective, make_objective
from train.preference.evaluation import PairEvaluator
from train.run_files import CHECKPOINTS, RunFiles
from train.shown.recorder import Recorder
from train.trained_model import TrainedModel, load_model

logger = logging.getLogger(__name__)

RESUMED = "goes on after step %d of %d"
"""Message that ends a worker's start from a checkpoint, by which this is timed."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A run that stands where its newest checkpoint was saved.

    Attributes:
        run: To be run.
        save: Called at the end on every worker: puts the adapter or the model into a folder, where
            one is given.
        recorder: Of its curves.
    """

    run: TrainingRun
    save: Callable[[Path | None], None]
    recorder: Recorder


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker's part in an attempt of a run.

    Attributes:
        job: The run.
        files: Of it.
        group: Its workers.
        notice: Whether this worker's machine is about to end.
        report: Called after each step, on the first worker.
        faults: What happens in a checkpoint's commit; for tests.
        listen: Called with each line of the log, on the first worker.
    """

    job: Job
    files: RunFiles
    group: Group
    notice: Callable[[], bool]
    report: Callable[[StepReport], None]
    faults: Faults | None = None
    listen: Callable[[Mapping[str, Any]], None] = lambda line: None

    @property
    def is_first(self) -> bool:
        """Whether this worker saves, and tells how far the run is."""
        return self.group.rank == 0


@dataclass(frozen=True, slots=True)
class _Found:
    """What an attempt goes on from."""

    model: TrainedModel
    plan: StepPlan
    fingerprint: Fingerprint
    store: CheckpointStore
    checkpoint: Checkpoint | None


def assemble(attempt: Attempt) -> Assembled:
    """Load the model and the newest checkpoint of a run.

    Args:
        attempt: This worker's part in it.

    Raises:
        TrainingError: the model has no room, or its tokens are not the data's.
        ModelLoadError: its files are absent or damaged.
        CheckpointError: the storage cannot be used, or the run was begun with other numbers.
    """
    config, found = attempt.job.config, _find(attempt)
    recorder = Recorder(attempt.files, attempt.listen)
    run = TrainingRun(_parts(attempt, found, recorder))
    if found.checkpoint is not None:
        run.restore(found.checkpoint)
        logger.info(RESUMED, run.step, total_steps(config, found.plan.steps_per_epoch))
    run.mark()
    if attempt.is_first:
        recorder.begin(run.log.lines())

    def save(folder: Path | None) -> None:
        if folder is None:
            return
        if isinstance(found.model.module, Encoder):
            found.model.module.save(folder)
        else:
            found.model.module.save_pretrained(folder, safe_serialization=True)

    return Assembled(run, save, recorder)


def _find(attempt: Attempt) -> _Found:
    job, config = attempt.job, attempt.job.config
    store = CheckpointStore(
        attempt.files.path(CHECKPOINTS),
        keep=config.checkpoint.keep,
        faults=attempt.faults,
        read_only=not attempt.is_first,
    )
    model = load_model(job, attempt.group.size, begun=bool(store.all()))
    plan = StepPlan(
        job.train,
        seed=config.seed,
        batch_size=config.batch_size,
        shards=config.shards,
        micro_batch_tokens=config.micro_batch_tokens,
        whole_shards=config.embedding is not None,
    )
    fingerprint = _fingerprint(job, model, attempt.group)
    checkpoint = store.newest(fingerprint, allow_inexact=config.allow_inexact)
    return _Found(model, plan, fingerprint, store, checkpoint)


def total_steps(config: TrainingConfig, per_epoch: int) -> int:
    """Optimizer steps of the whole run."""
    steps = config.num_epochs * per_epoch
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _fingerprint(job: Job, model: TrainedModel, group: Group) -> Fingerprint:
    config = job.config
    return Fingerprint.here(
        model=config.model_name,
        model_digest=model.digest,
        data_digest=job.train.digest,
        config_digest=digest_of(config.numbers()),
        dtype=model.dtype,
        micro_batch_tokens=config.micro_batch_tokens,
        shards=config.shards,
        attention=packed_attention.NAME
        if config.embedding is None
        else packed_attention.ENCODER_NAME,
        device=model.device,
        world_size=group.size,
        held_out=held_out_digest(job.held_out, config.evaluation),
    )


def _parts(attempt: Attempt, found: _Found, recorder: Recorder) -> Parts:
    job, config = attempt.job, attempt.job.config
    model, plan = found.model, found.plan
    steps = total_steps(config, plan.steps_per_epoch)
    flat = FlatParameters(trainable(model.module))
    objective: Objective
    evaluator: Evaluator | PairEvaluator | EmbeddingEvaluator | None
    inexact: list[str] = []
    if isinstance(model.module, Encoder):
        objective, evaluator = _of_encoder(attempt, model.module, plan)
    else:
        computer = Computer(model.module, model.device)
        place = Place(
            attempt.files, computer, attempt.group, attempt.notice, model.digest, model.dtype
        )
        # the reference is computed by the model as it is before its first step
        objective = make_objective(job, place)
        evaluator = make_evaluator(job, place, model.module, plan)
        inexact = place.inexact
    parts = Parts(
        plan=plan,
        data=job.train,
        objective=objective,
        flat=flat,
        optimizer=Optimizer(flat, config),
        schedule=LearningRate(
            config.learning_rate,
            steps,
            warmup_steps(config.warmup_steps, config.warmup_share, steps),
            config.schedule,
        ),
        group=attempt.group,
        fingerprint=found.fingerprint,
        saver=None,
        seed=config.seed,
        evaluate=None
        if evaluator is None
        else lambda step: evaluator.measure(step, steps, attempt.notice),
        notice=attempt.notice,
        inexact=tuple(inexact),
    )
    if not attempt.is_first:
        return parts
    saved = 0 if found.checkpoint is None else found.checkpoint.step
    saver = Saver(AsyncWriter(found.store), config.checkpoint, attempt.group.size, saved)
    return replace(parts, saver=saver, report=attempt.report, logged=recorder.add)


def _of_encoder(
    attempt: Attempt, encoder: Encoder, plan: StepPlan
) -> tuple[EmbeddingLoss, EmbeddingEvaluator | None]:
    job, config = attempt.job, attempt.job.config
    assert config.embedding is not None
    objective = EmbeddingLoss(encoder, job.train, config.embedding, config.micro_batch_tokens)
    if job.held_out is None:
        return objective, None
    evaluator = EmbeddingEvaluator(
        encoder, job.held_out, config, plan.steps_per_epoch, attempt.group
    )
    return objective, evaluator


def make_evaluator(
    job: Job, place: Place, model: Any, plan: StepPlan
) -> Evaluator | PairEvaluator | None:
    """What measures the held-out rows; None: there are none."""
    if job.held_out is None:
        return None
    if job.config.preference is not None:
        objective = held_out_objective(job, place)
        return PairEvaluator(
            place.computer,
            objective,
            job.held_out,
            job.config,
            plan.steps_per_epoch,
            place.group,
        )
    return Evaluator(
        place.computer,
        model,
        job.held_out,
        job.train,
        job.config,
        plan.steps_per_epoch,
        job.tokenizer,
        place.group,
    )
