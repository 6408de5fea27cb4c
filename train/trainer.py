"""A run of training from a configuration to its result, on the cluster that Ray is connected to."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ironcliw.buckets import below
from ironcliw.errors import DataError, SettingsError, TrainingError
from ironcliw.file_digests import weights_digest
from ironcliw.settings import Settings, load_settings, process_environment
from train.checkpoint.store import CheckpointStore
from train.checks import check_same_run
from train.config import TrainingConfig
from train.data.plan import check_rows
from train.data.prepare import Prepared
from train.data.read import how_to_read, read_data
from train.embedding.contrast import check_contrast
from train.embedding.load import check_encoder
from train.embedding.tokenizer import (
    EncoderTokenizer,
    embeds_texts,
    encoder_folder,
    within_window,
)
from train.environment import run_environment
from train.evaluation.checks import check_evaluation
from train.evaluation.gate import Verdict
from train.evaluation.held_out import held_out_digest
from train.evaluation.report import from_record
from train.job import Job
from train.loop.run import StepReport
from train.outcome import read_outcome, set_aside_failure
from train.paths import whole_uri, with_whole_paths
from train.placement import Place, check_reference, check_storage, choose_place
from train.progress import watch
from train.publish import check_publishing, publish_run, refusal
from train.ray_worker import train_worker
from train.run_files import CHECKPOINTS, CONFIG, OUTCOME, RunFiles, run_uri
from train.run_lock import held
from train.shown.gauges import RunGauges
from train.tokenizer import TrainingTokenizer, model_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished run.

    Attributes:
        name: Of the run.
        uri: Of its folder.
        result: URI of the adapter or the model.
        steps: Optimizer steps.
        chain: Hash over all lines of the log: equal for equal runs.
        evaluation: The last measures on held-out rows; empty where there are none.
        before: The same measures of the model before the first step.
        gate: Whether it may be published; None: nothing tells, for the reason of `ungated`.
        published: How requests name it; None: it is not published.
        version: Under that name; 0: it is not published.
        ungated: Why the gate says nothing; empty: it does.
    """

    name: str
    uri: str
    result: str
    steps: int
    chain: str
    evaluation: Mapping[str, float]
    before: Mapping[str, float] = field(default_factory=dict)
    gate: Verdict | None = None
    published: str | None = None
    version: int = 0
    ungated: str = ""


class Trainer:
    """`Trainer(TrainingConfig(model_name=...)).train("train.jsonl")`.

    Args:
        config: Of the run.
        settings: None: those of this process.
        report: Called after each step; None: nothing is shown.
    """

    def __init__(
        self,
        config: TrainingConfig,
        settings: Settings | None = None,
        report: Callable[[StepReport], None] | None = None,
    ) -> None:
        self.config = config
        self.settings = settings or load_settings()
        self._report = report or (lambda report: None)

    def train(self, data: str | Path | None = None) -> TrainingResult:
        """Train to the end; a run of the same name goes on where it was.

        Args:
            data: File, folder, pattern or URI to train on; None: what the configuration names.

        Raises:
            SettingsError: the configuration cannot be run here, or a run of this name is finished
                or has saved steps that was another one.
            ConflictError: another job has the run.
            DataError: the data cannot be used.
            ModelNotFoundError: no such model.
            TrainingError: the run has failed; what it reached is saved.
            CheckpointError: the storage cannot be used, or the run was begun with other numbers.
        """
        config = self.config
        if data is not None:
            changed = config.data.model_copy(update={"train": (str(data),)})
            config = config.model_copy(update={"data": changed})
        if not config.data.train:
            raise SettingsError("data.train is empty; name the files to train on")
        config = with_whole_paths(config, self.settings)
        import ray

        if not ray.is_initialized():
            in_pieces = config.sharding.is_on
            variables = run_environment(process_environment(), in_pieces=in_pieces)
            ray.init(
                log_to_driver=False, configure_logging=False, runtime_env={"env_vars": variables}
            )
        place = choose_place(config, self.settings)
        tokenizer = _tokenizer(config, self.settings)
        options = within_window(config.data, tokenizer)
        prepared = read_data(options, tokenizer, how_to_read(options))
        check_kind(config, prepared)
        check_contrast(prepared.train)
        check_rows(prepared.train, config.micro_batch_tokens)
        check_publishing(config, prepared.eval, self.settings)
        check_evaluation(config.evaluation, prepared.eval, prepared.train, tokenizer)
        index = self.settings.state_dir / "models" / "index"
        model = weights_digest(model_path(config.model_name, self.settings), index)
        name = config.name or run_name(config, prepared, model)
        uri = whole_uri(config.checkpoint.storage or run_uri(name, self.settings))
        files = RunFiles(uri)
        check_storage(place, files)
        check_reference(place, config)
        numbers = {
            **config.numbers(),
            "data": prepared.train.digest,
            "model": model,
            "held-out rows or evaluation": held_out_digest(prepared.eval, config.evaluation),
        }
        job = Job(
            config, self.settings, uri, prepared.train, prepared.eval, place.threads, tokenizer
        )
        with held(files, f"run {name}"):
            check_same_run(name, files, numbers, allow_inexact=config.allow_inexact)
            set_aside_failure(files)
            files.write(CONFIG, {"config": config.model_dump(mode="json"), "numbers": numbers})
            if files.read(OUTCOME) is None:
                self._fit(job, place, name)
            return self._published(config.publish, _result(name, uri))

    async def train_async(self, data: str | Path | None = None) -> TrainingResult:
        """As `train`, in a thread: the event loop goes on."""
        return await asyncio.to_thread(self.train, data)

    def _published(self, name: str | None, result: TrainingResult) -> TrainingResult:
        """Published if that is wanted and the gate says yes; `gate` has the reason if it is not."""
        if name is None or result.gate is None or not result.gate.passed:
            return result
        record = publish_run(result.uri, name, self.settings)
        logger.info("published as %s, version %d", record.model_id, record.version)
        return dataclasses.replace(result, published=record.model_id, version=record.version)

    def _fit(self, job: Job, place: Place, name: str) -> None:
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        # type checkers see the first version of Ray Train, programs the second
        api: Any = ray.train
        gauges = RunGauges(name)

        def report(step: StepReport) -> None:
            gauges.add(step)
            self._report(step)

        with watch(report) as progress:
            TorchTrainer(
                train_worker,
                train_loop_config={"job": ray.put(job), "progress": progress},
                torch_config=TorchConfig(backend=place.collectives),
                scaling_config=api.ScalingConfig(
                    num_workers=job.config.workers,
                    use_gpu=place.use_gpu,
                    resources_per_worker=place.resources,
                    label_selector=place.labels or None,
                ),
                run_config=api.RunConfig(
                    name="ray",
                    storage_path=job.uri,
                    # attempts are counted by the workers: only they know whether one got further
                    failure_config=api.FailureConfig(max_failures=-1, max_preemption_failures=-1),
                ),
            ).fit()


def _tokenizer(config: TrainingConfig, settings: Settings) -> TrainingTokenizer:
    if config.embedding is not None:
        check_encoder(config, encoder_folder(config.model_name, settings))
        return EncoderTokenizer.load_encoder(config.model_name, settings)
    if embeds_texts(config.model_name, settings):
        raise SettingsError(
            f"model {config.model_name!r} embeds texts and does not write; train it with `ironcliw "
            "train embed`, or name a model that writes, such as SmolLM2-135M-Instruct"
        )
    return TrainingTokenizer.load(config.model_name, settings, template=config.data.chat_template)


def run_name(config: TrainingConfig, prepared: Prepared, model: str) -> str:
    """A name that the same model, data and numbers always have."""
    text = json.dumps([config.numbers(), prepared.train.digest, model], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{Path(config.model_name).name}-{config.method}-{digest}"


def check_kind(config: TrainingConfig, prepared: Prepared) -> None:
    """Refuse data of the other kind of training.

    Raises:
        DataError: answers to be imitated for a run on preferences, or the other way round.
    """
    wants_pairs = config.preference is not None
    for data in (prepared.train, prepared.eval):
        if data is None or not len(data) or data.are_pairs == wants_pairs:
            continue
        if wants_pairs:
            raise DataError(
                f"{data.source(0)} has one answer, and the run compares two; give rows of prompt, "
                "chosen and rejected, or train with `ironcliw train sft`"
            )
        raise DataError(
            f"{data.source(0)} has a chosen and a rejected answer, and the run imitates one; give "
            "rows of one answer, or train with `ironcliw train dpo`"
        )


def _result(name: str, uri: str) -> TrainingResult:
    outcome = read_outcome(uri)
    if outcome is None:
        newest = CheckpointStore(below(uri, CHECKPOINTS), read_only=True).all()
        step = newest[0].step if newest else 0
        raise TrainingError(
            f"run {name} ended without an outcome, {step} steps are saved in {uri}; see its logs "
            "in the Ray dashboard, and submit it again to go on"
        )
    return TrainingResult(
        name,
        uri,
        outcome["result"],
        outcome["steps"],
        outcome["chain"],
        _measures(outcome["evaluation"]),
        _measures(outcome.get("before")),
        from_record(outcome.get("gate")),
        ungated=refusal(outcome) or "" if outcome.get("gate") is None else "",
    )


def _measures(line: Mapping[str, Any] | None) -> dict[str, float]:
    return {key: value for key, value in (line or {}).items() if isinstance(value, float)}
