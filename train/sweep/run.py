"""All trials of a sweep, by Ray Tune; a sweep that was interrupted goes on under its name."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ironcliw.errors import SettingsError
from ironcliw.file_digests import weights_digest
from ironcliw.settings import Settings, process_environment
from train.config import TrainingConfig
from train.data.plan import check_rows
from train.data.read import how_to_read, read_data, with_ray_data
from train.environment import run_environment
from train.evaluation.checks import check_evaluation
from train.job import Job
from train.paths import whole_uri, with_whole_paths
from train.placement import Place, check_reference, check_storage, choose_place
from train.run_files import OUTCOME, RunFiles
from train.run_lock import held
from train.sweep import plot
from train.sweep.begun import Begun, begin, check_begun
from train.sweep.config import SweepConfig
from train.sweep.points import points, trial_name
from train.sweep.results import State, Trial, as_json, as_markdown
from train.sweep.trial import FAILED, RECORD, TrialJob, trial_uri
from train.sweep.tuning import Report, tune_all
from train.tokenizer import TrainingTokenizer, model_path
from train.trainer import check_kind

RESULTS, PAGE = "results.json", "results.md"


def sweep_uri(config: SweepConfig, settings: Settings) -> str:
    """Of a sweep's folder."""
    return whole_uri(config.storage or str(settings.state_dir / "sweeps" / config.name))


def run_sweep(
    config: SweepConfig, settings: Settings, report: Report = lambda text: None
) -> list[Trial]:
    """Try every point; results are in the sweep's folder, whatever happens after.

    Args:
        config: Of the sweep.
        settings: Of the head.
        report: Told in words of each evaluation.

    Raises:
        SettingsError: the configuration cannot be run, or a sweep of this name was begun that is
            another one.
        ConflictError: another job has the sweep.
        DataError: the data cannot be used.
    """
    tried = points(config)
    configs = [config.trial(point) for point in tried]
    uri = sweep_uri(config, settings)
    files = RunFiles(uri)
    place = choose_place(configs[0], settings)
    check_storage(place, files, "storage")
    check_reference(place, configs[0])
    check_begun(config, files)
    given = _prepared(config, configs[0], settings, place, uri)
    with held(files, f"sweep {config.name}"):
        begun = begin(config, files, _begun(given), place.threads)
        given = replace(given, job=replace(given.job, threads=begun.threads))
        failed = [trial.point for trial in read_trials(config, uri) if trial.state == "failed"]
        _start_ray()
        ends = tune_all(tried, failed, given, place, report)
        trials = read_trials(config, uri, ends)
        write_results(config, trials, files)
    return trials


def read_trials(
    config: SweepConfig, uri: str, ends: Mapping[str, str] | None = None
) -> list[Trial]:
    """What the folders of a sweep's trials hold.

    Args:
        config: Of the sweep.
        uri: Of its folder.
        ends: The trials that Ray Tune has ended, by name, and why where it was an error, else "";
            None: the sweep is going on. A trial that is neither finished nor ended is unfinished.
    """
    found = []
    for point in points(config):
        name, where = trial_name(point), trial_uri(uri, point)
        files = RunFiles(where)
        record = files.read(RECORD) or {}
        outcome = files.read(OUTCOME) or {}
        error = str(record.get(FAILED) or (ends or {}).get(name, ""))
        state: State = "ended early" if name in (ends or {}) else "unfinished"
        if outcome.get("outcome") == "finished":
            state = "finished"
        elif error or outcome:
            state, error = "failed", error or str(outcome.get("error", ""))
        found.append(Trial(name, where, point, state, record.get("history", ()), error))
    return found


def write_results(config: SweepConfig, trials: list[Trial], files: RunFiles) -> None:
    """Table, page and picture into the sweep's folder.

    Raises:
        CheckpointError: they cannot be written.
    """
    files.write(RESULTS, as_json(config, trials))
    files.write_text(PAGE, as_markdown(config, trials, plot.NAME))
    with tempfile.TemporaryDirectory(prefix="ironcliw-sweep-") as temporary:
        picture = Path(temporary) / plot.NAME
        plot.draw(config, trials, picture)
        files.upload_file(picture, plot.NAME)


def _prepared(
    config: SweepConfig, first: TrainingConfig, settings: Settings, place: Place, uri: str
) -> TrialJob:
    """Data and model, which all trials share."""
    path = model_path(first.model_name, settings)
    tokenizer = TrainingTokenizer.load(
        first.model_name, settings, template=first.data.chat_template
    )
    how = how_to_read(first.data)
    if how is with_ray_data:
        _start_ray()
    prepared = read_data(first.data, tokenizer, how)
    check_kind(first, prepared)
    check_rows(prepared.train, first.micro_batch_tokens)
    check_evaluation(first.evaluation, prepared.eval, prepared.train, tokenizer)
    if prepared.eval is None or not len(prepared.eval):
        raise SettingsError(
            f"sweep {config.name} compares {config.metric} of held-out rows, and none is held out; "
            "set data.eval or data.eval_share of the run"
        )
    if first.preference is None:
        known = {"eval_loss", "perplexity", *first.evaluation.metrics}
    else:
        known = {"eval_loss", "preference_accuracy", "reward_accuracy", "reward_margin"}
    if config.metric not in known:
        raise SettingsError(
            f"sweep {config.name}: metric is {config.metric!r}, and what is measured is "
            f"{', '.join(sorted(known))}; add it to run.evaluation.metrics, or choose one of these"
        )
    if config.scheduler == "asha" and config.grace_epochs >= first.num_epochs > 1:
        raise SettingsError(
            f"sweep {config.name}: grace_epochs is {config.grace_epochs} and num_epochs "
            f"{first.num_epochs}, so that no trial could be ended early; lower grace_epochs, or "
            "set scheduler to none"
        )
    shared = with_whole_paths(first, settings)
    threads = max(1, place.threads // config.concurrent)
    index = settings.state_dir / "models" / "index"
    job = Job(shared, settings, uri, prepared.train, prepared.eval, threads, tokenizer)
    return TrialJob(job, config, uri, weights_digest(path, index))


def _begun(given: TrialJob) -> Begun:
    job = given.job
    assert job.held_out is not None, "a sweep compares measures of held-out rows"
    return Begun(job.train.digest, job.held_out.digest, given.model, job.threads)


def _start_ray() -> None:
    import ray

    if not ray.is_initialized():
        variables = run_environment(process_environment())
        ray.init(log_to_driver=False, configure_logging=False, runtime_env={"env_vars": variables})
