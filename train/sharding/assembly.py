"""A run of a model in pieces, put together: `train.assembly` for FSDP2."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch
from torch._C._distributed_c10d import HashStore

from ironcliw.file_digests import weights_digest
from train.assembly import RESUMED, Assembled, Attempt, make_evaluator, total_steps
from train.checkpoint.store import CheckpointStore
from train.checkpoint.together import SharedStore
from train.checkpoint.writer import AsyncWriter
from train.checks import check_room, check_tokens
from train.data.plan import StepPlan
from train.fingerprint import Fingerprint, digest_of
from train.job import Job
from train.loop.optimizer import Optimizer
from train.loop.run import Parts, TrainingRun
from train.loop.schedule import LearningRate, warmup_steps
from train.model import packed_attention
from train.model.adapters import causal_of, trainable
from train.model.load import choose_device, choose_dtype, model_folder
from train.objectives import Place, make_objective
from train.run_files import CHECKPOINTS
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
    # several workers open a folder that one of them makes; leftovers are the first one's business
    store = CheckpointStore(
        files.path(CHECKPOINTS),
        keep=config.checkpoint.keep,
        faults=attempt.faults,
        read_only=not is_first,
    )
    folder = model_folder(config.model_name, job.settings)
    model = _load(job, folder, device, group.size, begun=bool(store.all()))
    plan = StepPlan(
        job.train,
        seed=config.seed,
        batch_size=config.batch_size,
        shards=config.shards,
        micro_batch_tokens=config.micro_batch_tokens,
    )
    fingerprint = Fingerprint.here(
        model=config.model_name,
        model_digest=model.digest,
        data_digest=job.train.digest,
        config_digest=digest_of(config.numbers()),
        dtype=model.dtype,
        micro_batch_tokens=config.micro_batch_tokens,
        shards=config.shards,
        attention=packed_attention.NAME,
        device=device,
        world_size=group.size,
        sharding=config.sharding.mode,
    )
    signals = Signals(attempt.notice, device)
    flat = ShardedParameters(trainable(model.module), model.root, group)
    place = Place(
        files,
        ShardedComputer(model),
        InStep(group),
        signals.notice,
        model.digest,
        model.dtype,
        functools.partial(SharedReferenceCache, signals=signals, is_first=is_first),
    )
    # the reference is computed by the model as it is before its first step
    objective = make_objective(job, place)
    evaluator = make_evaluator(job, place, model.module, plan)
    meeting = GlooMeeting(device)
    shared = SharedStore(store, meeting)
    reader = PieceReader(store, flat, fingerprint, allow_inexact=config.allow_inexact)
    checkpoint = shared.newest(reader.load)
    steps = total_steps(config, plan.steps_per_epoch)
    saver = ShardedSaver(
        AsyncWriter(shared),
        config.checkpoint,
        group.size,
        checkpoint.step if checkpoint else 0,
        signals,
        is_first=is_first,
    )
    recorder = Recorder(files, attempt.listen)
    measure = evaluator.measure if evaluator else None
    run = TrainingRun(
        Parts(
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
            saver=saver,
            seed=config.seed,
            evaluate=(lambda step: measure(step, steps, signals.notice)) if measure else None,
            notice=signals.notice,
            report=attempt.report if is_first else lambda report: None,
            logged=recorder.add if is_first else lambda line: None,
            passes=Rounds(model, flat, objective, group, signals, saver, config.seed),
        )
    )
    if checkpoint is not None:
        run.restore(checkpoint)
        logger.info(RESUMED, run.step, steps)
    if is_first:
        recorder.begin(run.log.lines())

    def save(to: Path | None) -> None:
        if config.use_lora:
            save_adapter(model, to)
        else:
            save_model(model, folder, to)

    return Assembled(run, save, recorder)


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
