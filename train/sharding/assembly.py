"""A run of a model in pieces, put together: `train.assembly` for FSDP2."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._C._distributed_c10d import HashStore

from ironcliw.file_digests import weights_digest
from train.assembly import RESUMED, Assembled, Attempt, make_evaluator, total_steps
from train.checkpoint.snapshot import Checkpoint
from train.checkpoint.store import CheckpointStore
from train.checkpoint.together import SharedStore
from train.checkpoint.writer import AsyncWriter
from train.checks import check_room, check_tokens
from train.data.plan import StepPlan
from train.evaluation.held_out import held_out_digest
from train.fingerprint import Fingerprint, digest_of
from train.job import Job
from train.loop.optimizer import Optimizer
from train.loop.reduce import Group
from train.loop.run import Parts, TrainingRun
from train.loop.schedule import LearningRate, warmup_steps
from train.model import packed_attention
from train.model.adapters import causal_of, trainable
from train.model.load import choose_device, choose_dtype, model_folder
from train.objectives import Place, make_objective
from train.run_files import CHECKPOINTS, RunFiles
from train.sharding.checkpoint import PieceReader
from train.sharding.compute import ShardedComputer
from train.sharding.export import save_adapter, save_model
from train.sharding.load import ShardedModel, load_sharded
from train.sharding.meeting import GlooMeeting
from train.sharding.parameters import ShardedParameters
from train.sharding.reference import InStep, SharedReferenceCache
from train.sharding.rounds import Rounds
from train.sharding.saving import ShardedSaver
from train.sharding.signals import Signals
from train.shown.recorder import Recorder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A model in pieces, and the workers that have them."""

    model: ShardedModel
    flat: ShardedParameters
    group: Group
    signals: Signals
    fingerprint: Fingerprint


def assemble_sharded(attempt: Attempt) -> Assembled:
    """As `train.assembly.assemble`; all workers call it at the same time.

    Args:
        attempt: This worker's part in the run.

    Raises:
        TrainingError: the model has no room, or its tokens are not the data's.
        UnsupportedError: the model cannot be sharded.
        ModelLoadError: its files are absent or damaged.
        CheckpointError: the storage cannot be used, or the run was begun with other numbers.
        RuntimeError: of torch's, where another worker is gone (`signals.peers`).
    """
    job, files, group = attempt.job, attempt.files, attempt.group
    device = choose_device()
    _meet_oneself(device)
    config, is_first = job.config, attempt.is_first
    # what killed saves left behind is the first worker's business
    store = CheckpointStore(
        files.path(CHECKPOINTS),
        keep=config.checkpoint.keep,
        faults=attempt.faults,
        read_only=not is_first,
    )
    folder = model_folder(config.model_name, job.settings)
    model = _load(job, folder, device, group.size, begun=bool(store.all()))
    cut = _Cut(
        model,
        ShardedParameters(trainable(model.module), model.root, group),
        group,
        Signals(attempt.notice, device),
        _fingerprint(job, model, group),
    )
    recorder = Recorder(files, attempt.listen)
    parts, checkpoint = _parts(job, files, cut, store)
    parts.report = attempt.report if is_first else parts.report
    parts.logged = recorder.add if is_first else parts.logged
    run = TrainingRun(parts)
    if checkpoint is not None:
        run.restore(checkpoint)
        logger.info(RESUMED, run.step, parts.schedule.steps)
    run.mark()
    if is_first:
        recorder.begin(run.log.lines())

    def save(to: Path | None) -> None:
        if config.use_lora:
            save_adapter(model, to)
        else:
            save_model(model, folder, to)

    return Assembled(run, save, recorder)


def _parts(
    job: Job, files: RunFiles, cut: _Cut, store: CheckpointStore
) -> tuple[Parts, Checkpoint | None]:
    """What the run is made of, and where it goes on."""
    config, group, signals, is_first = job.config, cut.group, cut.signals, cut.group.rank == 0
    plan = StepPlan(
        job.train,
        seed=config.seed,
        batch_size=config.batch_size,
        shards=config.shards,
        micro_batch_tokens=config.micro_batch_tokens,
    )
    # the reference is computed by the model as it is before its first step
    place = _place(files, cut)
    objective = make_objective(job, place)
    evaluator = make_evaluator(job, place, cut.model.module, plan)
    shared = SharedStore(store, GlooMeeting(cut.model.device))
    checkpoint = shared.newest(
        PieceReader(store, cut.flat, cut.fingerprint, allow_inexact=config.allow_inexact).load
    )
    steps = total_steps(config, plan.steps_per_epoch)
    saved = checkpoint.step if checkpoint else 0
    saver = ShardedSaver(
        AsyncWriter(shared), config.checkpoint, group.size, saved, signals, is_first=is_first
    )
    measure = evaluator.measure if evaluator else None
    made = Parts(
        plan=plan,
        data=job.train,
        objective=objective,
        flat=cut.flat,
        optimizer=Optimizer(cut.flat, config),
        schedule=LearningRate(
            config.learning_rate,
            steps,
            warmup_steps(config.warmup_steps, config.warmup_share, steps),
            config.schedule,
        ),
        group=group,
        fingerprint=cut.fingerprint,
        saver=saver,
        seed=config.seed,
        evaluate=(lambda step: measure(step, steps, signals.notice)) if measure else None,
        notice=signals.notice,
        inexact=tuple(place.inexact),
        passes=Rounds(cut.model, cut.flat, objective, group, signals, saver, config.seed),
    )
    return made, checkpoint


def _place(files: RunFiles, cut: _Cut) -> Place:
    is_first = cut.group.rank == 0
    return Place(
        files,
        ShardedComputer(cut.model),
        InStep(cut.group),
        cut.signals.notice,
        cut.model.digest,
        cut.model.dtype,
        functools.partial(SharedReferenceCache, signals=cut.signals, is_first=is_first),
    )


def _fingerprint(job: Job, model: ShardedModel, group: Group) -> Fingerprint:
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
        sharding=config.sharding.mode,
        held_out=held_out_digest(job.held_out, config.evaluation),
    )


def _load(
    job: Job, folder: Path, device: torch.device, workers: int, *, begun: bool
) -> ShardedModel:
    config = job.config
    # a weight in bfloat16 would lose the small steps that it is trained by
    dtype = choose_dtype(config.precision, device) if config.use_lora else torch.float32
    check_room(config, folder, dtype, device, workers, begun=begun)
    model = load_sharded(config, folder, weights_digest(folder), dtype, device)
    known = causal_of(model.module).get_input_embeddings().num_embeddings
    check_tokens(config.model_name, known, job.train, job.held_out)
    return model


def _meet_oneself(device: torch.device) -> None:
    """FSDP2 wants a process group, of one worker, too."""
    if torch.distributed.is_initialized():
        return
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=HashStore(),
        rank=0,
        world_size=1,
    )
