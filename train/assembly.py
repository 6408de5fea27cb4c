"""A run put together from its configuration: the model, what it reads, and where it is saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ironcliw.file_digests import weights_digest
from train.checkpoint.faults import Faults
from train.checkpoint.snapshot import Checkpoint
from train.checkpoint.store import CheckpointStore
from train.checkpoint.writer import AsyncWriter
from train.checks import check_room, check_tokens
from train.config import TrainingConfig
from train.data.plan import StepPlan
from train.evaluation.evaluator import Evaluator
from train.fingerprint import Fingerprint, digest_of
from train.job import Job
from train.loop.compute import Computer
from train.loop.flat import FlatParameters
from train.loop.optimizer import Optimizer
from train.loop.reduce import Group
from train.loop.run import Parts, StepReport, TrainingRun
from train.loop.saving import Saver
from train.loop.schedule import LearningRate, warmup_steps
from train.model import packed_attention
from train.model.adapters import add_adapters, trainable
from train.model.fast_layers import replace_forwards
from train.model.fused import fuse
from train.model.load import choose_device, choose_dtype, load_base, model_folder
from train.objectives import Place, held_out_objective, make_objective
from train.preference.evaluation import PairEvaluator
from train.run_files import CHECKPOINTS, RunFiles
from train.shown.recorder import Recorder

logger = logging.getLogger(__name__)

LOADED = "model %s in %s on %s, %d groups of layers fused, %d modules compiled"
RESUMED = "goes on after step %d of %d"
"""Messages that end the phases of a start, by which these are timed."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A run that stands where its newest checkpoint was saved.

    Attributes:
        run: To be run.
        model: transformers' or peft's, which it trains.
        recorder: Of its curves.
    """

    run: TrainingRun
    model: Any
    recorder: Recorder


@dataclass(frozen=True, slots=True)
class _Model:
    """A model with what is known of it."""

    module: Any
    digest: str
    dtype: torch.dtype
    device: torch.device


def assemble(
    job: Job,
    files: RunFiles,
    group: Group,
    notice: Callable[[], bool],
    report: Callable[[StepReport], None],
    faults: Faults | None = None,
    listen: Callable[[Mapping[str, Any]], None] = lambda line: None,
) -> Assembled:
    """Load the model and the newest checkpoint of a run.

    Args:
        job: The run.
        files: Of it.
        group: Its workers.
        notice: Whether this worker's machine is about to end.
        report: Called after each step, on the first worker.
        faults: What happens in a checkpoint's commit; for tests.
        listen: Called with each line of the log, on the first worker.

    Raises:
        TrainingError: the model has no room, or its tokens are not the data's.
        ModelLoadError: its files are absent or damaged.
        CheckpointError: the storage cannot be used, or the run was begun with other numbers.
    """
    config = job.config
    store = CheckpointStore(
        files.path(CHECKPOINTS),
        keep=config.checkpoint.keep,
        faults=faults,
        read_only=group.rank != 0,
    )
    model = _load_model(job, group.size, begun=bool(store.all()))
    plan = StepPlan(
        job.train,
        seed=config.seed,
        batch_size=config.batch_size,
        shards=config.shards,
        micro_batch_tokens=config.micro_batch_tokens,
    )
    fingerprint = _fingerprint(job, model, group)
    checkpoint = store.newest(fingerprint, allow_inexact=config.allow_inexact)
    recorder = Recorder(files, listen)
    run = TrainingRun(
        _parts(
            job,
            files,
            model,
            plan,
            fingerprint,
            group,
            store,
            checkpoint,
            notice,
            report,
            recorder,
        )
    )
    if checkpoint is not None:
        run.restore(checkpoint)
        logger.info(RESUMED, run.step, total_steps(config, plan.steps_per_epoch))
    if group.rank == 0:
        recorder.begin(run.log.lines())
    return Assembled(run, model.module, recorder)


def total_steps(config: TrainingConfig, per_epoch: int) -> int:
    """Optimizer steps of the whole run."""
    steps = config.num_epochs * per_epoch
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _load_model(job: Job, workers: int, *, begun: bool) -> _Model:
    config = job.config
    device = choose_device()
    # a weight in bfloat16 would lose the small steps that it is trained by
    dtype = choose_dtype(config.precision, device) if config.use_lora else torch.float32
    folder = model_folder(config.model_name, job.settings)
    check_room(config, folder, dtype, device, workers, begun=begun)
    base = load_base(
        config.model_name, folder, weights_digest(folder), dtype, device, config.quantization
    )
    known = base.module.get_input_embeddings().num_embeddings
    check_tokens(config.model_name, known, job.train, job.held_out)
    module = add_adapters(base, config) if config.use_lora else base.module
    fused = fuse(module) if config.use_lora else 0
    fast = replace_forwards(module, dtype, device)
    if config.gradient_checkpointing:
        base.module.activation_checkpointing_enable()
    logger.info(LOADED, config.model_name, dtype, device, fused, fast)
    return _Model(module, base.digest, dtype, device)


def _fingerprint(job: Job, model: _Model, group: Group) -> Fingerprint:
    config = job.config
    return Fingerprint.here(
        model=config.model_name,
        model_digest=model.digest,
        data_digest=job.train.digest,
        config_digest=digest_of(config.numbers()),
        dtype=model.dtype,
        micro_batch_tokens=config.micro_batch_tokens,
        shards=config.shards,
        attention=packed_attention.NAME,
        device=model.device,
        world_size=group.size,
    )


def _parts(
    job: Job,
    files: RunFiles,
    model: _Model,
    plan: StepPlan,
    fingerprint: Fingerprint,
    group: Group,
    store: CheckpointStore,
    checkpoint: Checkpoint | None,
    notice: Callable[[], bool],
    report: Callable[[StepReport], None],
    recorder: Recorder,
) -> Parts:
    config, is_first = job.config, group.rank == 0
    steps = total_steps(config, plan.steps_per_epoch)
    computer = Computer(model.module, model.device)
    flat = FlatParameters(trainable(model.module))
    place = Place(files, computer, group, notice, model.digest, model.dtype)
    # the reference is computed by the model as it is before its first step
    objective = make_objective(job, place)
    evaluator = _evaluator(job, place, model.module, plan) if is_first else None
    saved = checkpoint.step if checkpoint else 0
    return Parts(
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
        group=group,
        fingerprint=fingerprint,
        saver=Saver(AsyncWriter(store), config.checkpoint, group.size, saved) if is_first else None,
        seed=config.seed,
        evaluate=(lambda step: evaluator.measure(step, steps, notice)) if evaluator else None,
        notice=notice,
        report=report if is_first else lambda report: None,
        logged=recorder.add if is_first else lambda line: None,
    )


def _evaluator(
    job: Job, place: Place, model: Any, plan: StepPlan
) -> Evaluator | PairEvaluator | None:
    """None: nothing is held out."""
    if job.held_out is None:
        return None
    if job.config.preference is not None:
        objective = held_out_objective(job, place)
        return PairEvaluator(
            place.computer, objective, job.held_out, job.config, plan.steps_per_epoch
        )
    return Evaluator(
        place.computer,
        model,
        job.held_out,
        job.train,
        job.config,
        plan.steps_per_epoch,
        job.tokenizer,
    )
