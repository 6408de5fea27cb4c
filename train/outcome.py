"""How a run ended: written by its first worker, read by whoever waits for it.

The outcome is written last, since it says that all the rest is there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ironcliw.buckets import shown
from ironcliw.errors import CheckpointError, IroncliwError, TrainingError
from train.evaluation.gate import judge, why_unjudged
from train.evaluation.held_out import are_of_one_kind, before_and_after
from train.evaluation.report import as_json, as_markdown, as_record
from train.export.target import staging
from train.job import Job
from train.loop.run import TrainingRun
from train.run_files import (
    ADAPTER,
    EVALUATION,
    EVALUATION_PAGE,
    LOG,
    MODEL,
    OUTCOME,
    RunFiles,
)
from train.shown.recorder import Recorder


def write_failure(files: RunFiles, error: Exception, rank: int) -> None:
    """Write down why a run has failed, in the words of the error."""
    message = error.message if isinstance(error, IroncliwError) else repr(error)
    files.write(OUTCOME, {"outcome": "failed", "error": message, "rank": rank})


def set_aside_failure(files: RunFiles) -> None:
    """Let a run go on that has failed; how it did stays beside.

    Raises:
        CheckpointError: the storage cannot be used.
    """
    found = files.read(OUTCOME)
    if found is not None and found.get("outcome") == "failed":
        files.write(OUTCOME + ".before", found)
        files.remove(OUTCOME)


def write_result(
    job: Job,
    files: RunFiles,
    save: Callable[[Path], None],
    run: TrainingRun,
    recorder: Recorder,
) -> None:
    """The adapter or model, the log, and then the outcome.

    Args:
        job: The run.
        files: Of it.
        save: Puts the adapter or the model, as it was trained, into a folder.
        run: At its end.
        recorder: Of its curves.

    Raises:
        CheckpointError: they cannot be written.
        StoreError: the disk of the state directory has no room for them.
    """
    kind = ADAPTER if job.config.use_lora else MODEL
    # not where the machine keeps what is temporary, which may be its memory
    with staging(job.settings.state_dir / "results") as folder:
        save(folder)
        is_encoder = job.config.embedding is not None
        if kind == MODEL and job.tokenizer is not None and not is_encoder:
            # a model is served and trained further with its tokenizer; an adapter with its base's
            job.tokenizer.transformers().save_pretrained(folder)
        files.upload(folder, kind)
    files.write_text(LOG, run.log.text)
    recorder.finish(run.log.lines())
    evaluations = [line for line in run.log.lines() if line.get("event") == "evaluation"]
    before, after = before_and_after(evaluations)
    verdict = judge(job.config.evaluation, before, after)
    ungated = why_unjudged(job.config.evaluation, before, after)
    if before is not None and after is not None and not are_of_one_kind(before, after):
        before = None  # other numbers, which must not stand beside these
    name = job.config.name or shown(job.uri).rpartition("/")[2]
    if evaluations:
        files.write(EVALUATION, as_json(evaluations, verdict))
        files.write_text(EVALUATION_PAGE, as_markdown(name, evaluations, verdict))
    files.write(
        OUTCOME,
        {
            "outcome": "finished",
            "steps": run.step,
            "chain": run.log.chain,
            "result": files.path(kind),
            "model_digest": run.fingerprint.model_digest,
            "evaluation": after,
            "before": before,
            "gate": as_record(verdict),
            "ungated": ungated,
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
