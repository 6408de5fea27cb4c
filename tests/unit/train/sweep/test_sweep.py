"""Spaces, their points, and what is made of trials; Ray Tune is in tests/integration."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import SettingsError
from ironcliw.settings import Settings
from tests.unit.train.tiny import make_job
from train.config_file import validated
from train.job import Job
from train.placement import SPOT_LABEL, Place
from train.run_files import OUTCOME, RunFiles
from train.sweep.config import SEARCHED, SweepConfig, read_sweep
from train.sweep.plot import draw
from train.sweep.points import points, trial_name
from train.sweep.results import Trial, as_json, as_markdown, best, ranked, table
from train.sweep.run import read_trials, run_sweep
from train.sweep.trial import RECORD, History, TrialJob, run_trial, trial_uri
from train.sweep.tuning import tune_all

RUN = {"model_name": "tiny", "num_epochs": 9, "preference": {"beta": 0.1}}
SPACE = {"lora_rank": [4, 8], "weight_decay": {"choice": [0.1, 0.3]}}


def sweep(**changes: Any) -> SweepConfig:
    return validated(SweepConfig, {"name": "s", "run": RUN, "space": SPACE, **changes}, "test")


def test_every_combination() -> None:
    found = points(sweep())
    assert [tuple(point.values()) for point in found] == [(4, 0.1), (4, 0.3), (8, 0.1), (8, 0.3)]
    config = sweep().trial(found[3])
    assert (config.lora_rank, config.weight_decay, config.num_epochs) == (8, 0.3, 9)


def test_keys_within_a_section() -> None:
    config = sweep(space={"preference.beta": [0.1, 0.3]}, metric="preference_accuracy")
    made = [config.trial(point).preference for point in points(config)]
    assert [each.beta for each in made if each] == [0.1, 0.3]
    # the sweep's own configuration is as it was
    assert RUN["preference"] == {"beta": 0.1}


@pytest.mark.parametrize(
    ("metric", "key", "values"),
    [
        ("eval_loss", "preference.beta", [0.1, 0.3]),
        ("eval_loss", "preference.loss", ["sigmoid", "ipo"]),
        ("reward_margin", "preference.beta", [0.1, 0.3]),
        ("reward_accuracy", "preference.loss", ["sigmoid", "simpo"]),
    ],
)
def test_a_measure_that_the_searched_keys_scale_ranks_nothing(
    metric: str, key: str, values: list[Any]
) -> None:
    told = f"metric is '{metric}' and space has {key}, with which .* 'preference_accuracy'"
    with pytest.raises(SettingsError, match=told):
        sweep(space={key: values}, metric=metric)
    sweep(space={key: values}, metric="preference_accuracy")
    sweep(space={"lora_rank": [4]}, metric=metric)


def test_changes_of_all_trials() -> None:
    assert sweep(changes={"num_epochs": 2}).trial({"lora_rank": 4}).num_epochs == 2


def test_draws_are_the_same_always_and_different_from_each_other() -> None:
    space = {"learning_rate": {"log_uniform": [1e-5, 1e-2]}, "lora_dropout": {"uniform": [0, 0.5]}}
    run = {"model_name": "tiny"}
    found = points(sweep(run=run, space=space, samples=40))
    assert found == points(sweep(run=run, space=space, samples=40))
    assert found != points(sweep(run=run, space=space, samples=40, seed=1))
    assert len({trial_name(point) for point in found}) == 40
    rates = [float(point["learning_rate"]) for point in found]
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    # every order of magnitude is as likely as another
    assert 5 <= sum(rate < 1e-4 for rate in rates) <= 22
    assert all(rate == float(f"{rate:.4g}") for rate in rates)
    # more cannot be drawn of a choice than it has
    assert len(points(sweep(samples=100))) == 4


def test_names_of_trials() -> None:
    name = trial_name({"lora_rank": 8, "preference.beta": 0.1, "schedule": "a/b c"})
    assert name.startswith("lora_rank-8_beta-0.1_schedule-a-b-c-")
    assert trial_name({"lora_rank": 8}) != trial_name({"lora_alpha": 8})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"data.max_length": [1, 2]}}, "space has the key 'data.max_length'; what can"),
        ({"space": {"learning_rate": {"uniform": [1, 2]}}}, "space.learning_rate is no choice"),
        ({"space": {"lora_rank": {"choice": [1], "uniform": [1, 2]}}}, "give one of choice"),
        ({"space": {"lora_rank": {}}}, "give one of choice, uniform and log_uniform, not none"),
        ({"space": {"weight_decay": {"uniform": [2, 1]}}}, "the first number must be the smaller"),
        ({"space": {"weight_decay": {"log_uniform": [0, 1]}}}, "both must be above 0"),
        ({"space": {}}, "space"),
        ({"sample": 3}, "did you mean 'samples'"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_sweeps_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        sweep(**changes)


def test_trials_that_cannot_be() -> None:
    with pytest.raises(SettingsError, match=r"sweep s, lora_rank=0:\n +lora_rank"):
        sweep(space={"lora_rank": [0]}).trial({"lora_rank": 0})
    with pytest.raises(SettingsError, match="sweep s: the run has a section embedding, and tri"):
        sweep(run={"model_name": "tiny", "embedding": {}}).trial({"lora_rank": 4})
    with pytest.raises(SettingsError, match="workers is 2; a trial has one"):
        sweep(run={**RUN, "workers": 2, "shards": 2}).trial({})
    published = {**RUN, "publish": "bot"}
    with pytest.raises(SettingsError, match="publish of the run is 'bot', and trials are not"):
        sweep(run=published).trial({})
    assert sweep(run=published, changes={"publish": None}).trial({}).publish is None


def test_the_keys_are_those_of_a_run() -> None:
    from train.config import TrainingConfig
    from train.preference.options import PreferenceOptions

    known = {*TrainingConfig.model_fields}
    known |= {f"preference.{name}" for name in PreferenceOptions.model_fields}
    assert known >= SEARCHED


def test_a_run_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model_name: other\nlora_rank: 2\n")
    file = tmp_path / "sweep.yaml"
    file.write_text(f"name: s\nrun: {tmp_path}/run.yaml\nspace: {{lora_rank: [4]}}\n")
    found = read_sweep(file, {"run.num_epochs": 5, "concurrent": 3})
    assert (found.run["model_name"], found.run["num_epochs"], found.concurrent) == ("other", 5, 3)


def test_another_run_in_a_file_of_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"model_name: {name}\n")
    file = tmp_path / "sweep.yaml"
    file.write_text(f"name: s\nrun: {tmp_path}/one.yaml\nspace: {{lora_rank: [4]}}\n")
    found = read_sweep(file, {"run.seed": 5, "run": f"{tmp_path}/two.yaml"})
    assert found.run == {"model_name": "two", "seed": 5}
    told = r"run of .*sweep\.yaml is 'gone\.yaml', a path from /.*: No such file"
    with pytest.raises(SettingsError, match=told):
        read_sweep(file, {"run": "gone.yaml"})
    file.write_text("name: s\nspace: {lora_rank: [4]}\n")
    with pytest.raises(SettingsError, match=r"run: Field required"):
        read_sweep(file)


def test_trials_on_other_machines_need_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.sweep.run.choose_place", lambda *given: Place(1, labels=SPOT_LABEL))
    with pytest.raises(SettingsError, match=r"cannot reach .*; set storage to a bucket"):
        run_sweep(sweep(), Settings(state_dir=tmp_path))


def test_a_trial_hears_of_the_end_of_the_machine_that_it_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, reported = trial_job(tmp_path), []
    here = Settings(state_dir=tmp_path / "here", handover_dir=tmp_path / "handover")
    folders: list[tuple[Path | None, Path]] = []
    names: list[str] = []

    def work(job: Job, listen: Any) -> None:
        folders.append((job.settings.handover_dir, job.settings.state_dir))
        names.append(job.config.name)

    monkeypatch.setattr("train.sweep.trial.load_settings", lambda: here)
    monkeypatch.setattr("train.sweep.trial.work", work)
    monkeypatch.setattr("ray.tune.report", reported.append)
    run_trial({"point": {"lora_rank": 4}}, given)
    assert folders == [(here.handover_dir, here.state_dir)]
    assert names == [""], "a trial is called by its folder"
    # its work left no outcome: Tune is told, and does not start it for ever
    (told,) = reported
    assert "ended without an outcome" in told["failed"]
    files = RunFiles(trial_uri(str(tmp_path / "s"), {"lora_rank": 4}))
    assert (files.read(RECORD) or {})["failed"] == told["failed"]


def test_a_trial_without_its_storage_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr("ray.tune.report", reported.append)
    (tmp_path / "s").write_text("a file where the folder should be")
    run_trial({"point": {"lora_rank": 4}}, trial_job(tmp_path))
    assert "config.json cannot be written" in reported[0]["failed"]


class FakeTune:
    """Stands for Ray Tune: which experiments were run, with which points."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, list[Any]]] = []
        self.kept: list[str] = []
        monkeypatch.setattr("ray.tune.Tuner.can_restore", lambda path: Path(path).name in self.kept)
        monkeypatch.setattr("train.sweep.tuning._tune", self._run)

    def _run(self, name: str, points: list[Any], *given: Any) -> dict[str, str]:
        self.ran.append((name, points))
        self.kept = [*dict.fromkeys([*self.kept, name])]
        return {}


def test_what_has_failed_is_tried_again_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, ray_tune = sweep(), FakeTune(monkeypatch)
    given, place = trial_job(tmp_path), Place(1)
    tried = points(config)

    def again() -> list[tuple[str, list[Any]]]:
        ray_tune.ran = []
        found = read_trials(config, given.uri)
        failed = [trial.point for trial in found if trial.state == "failed"]
        tune_all(tried, failed, given, place, lambda text: None)
        return ray_tune.ran

    assert again() == [("tune", tried)]
    files = [RunFiles(trial_uri(given.uri, point)) for point in tried]
    files[0].write(OUTCOME, {"outcome": "finished"})
    files[1].write(OUTCOME, {"outcome": "failed", "error": "no room"})
    files[2].write(RECORD, {"point": tried[2], "history": [], "failed": "no network"})
    assert again() == [("tune", tried), ("tune-2", tried[1:3])]
    assert [files[1].read(OUTCOME), (files[2].read(RECORD) or {}).get("failed")] == [None, None]
    assert read_trials(config, given.uri)[1].state == "unfinished"
    # killed before Ray Tune has written anything of it
    ray_tune.kept = ["tune"]
    assert again() == [("tune", tried), ("tune-2", tried[1:3])]
    assert again() == [("tune", tried), ("tune-2", tried[1:3])]
    files[2].write(OUTCOME, {"outcome": "failed", "error": "no room"})
    assert again()[-1] == ("tune-3", [tried[2]])


def trial_job(folder: Path) -> TrialJob:
    job = make_job(folder, folder / "no model")
    return TrialJob(job, sweep(run={**RUN, "name": "support"}), str(folder / "s"), "digest")


def test_the_history_of_a_log() -> None:
    told = History()
    lines: list[dict[str, Any]] = [
        {"event": "evaluation", "step": 0, "eval_loss": 2.0, "eval_rows": 3, "chain": "x"},
        {"step": 1, "epoch": 0, "loss": 1.0},
        {"step": 2, "epoch": 0, "loss": 1.0},
        {"event": "evaluation", "step": 2, "eval_loss": 1.5, "eval_rows": 3},
        {"event": "inexact resume", "step": 2, "why": []},
        {"step": 3, "epoch": 1, "loss": 1.0},
        {"event": "evaluation", "step": 3, "eval_loss": 1.25, "eval_rows": 3},
    ]
    said = [found for line in lines if (found := told.add(line)) is not None]
    assert said == told.evaluations
    assert [(line["step"], line["epoch"], line["eval_loss"]) for line in said] == [
        (0, 0, 2.0),
        (2, 1, 1.5),
        (3, 2, 1.25),
    ]


def trial(rank: int, decay: float, state: Any, *losses: float, error: str = "") -> Trial:
    point: dict[str, Any] = {"lora_rank": rank, "weight_decay": decay}
    history = [
        {"step": 10 * epoch, "epoch": epoch, "eval_loss": loss} for epoch, loss in enumerate(losses)
    ]
    return Trial(trial_name(point), f"/runs/{rank}-{decay}", point, state, history, error)


TRIALS = [
    trial(4, 0.1, "finished", 2.0, 1.5, 1.2),
    trial(4, 0.3, "ended early", 2.0, 1.0),
    trial(8, 0.1, "finished", 2.0, 1.4, 1.1),
    trial(8, 0.3, "failed", 2.0, error="step 3: the loss is nan"),
]


def test_the_best_first() -> None:
    config = sweep()
    # one that was ended early has had fewer steps, and its measure is not compared
    assert [each.point["lora_rank"] for each in ranked(config, TRIALS)] == [8, 4, 4, 8]
    winner = best(config, TRIALS)
    assert winner is TRIALS[2]
    assert best(config, TRIALS[1:2]) is None
    higher = sweep(metric="preference_accuracy")
    assert higher.mode == "max"
    heading, rows = table(config, TRIALS)
    assert heading == ["lora_rank", "weight_decay", "steps", "epochs", "eval_loss", "state"]
    assert rows[0] == ["8", "0.1", "20", "2", "1.1000", "finished"]
    assert rows[-1] == ["8", "0.3", "0", "0", "-", "failed"]


def test_pages_and_pictures(tmp_path: Path) -> None:
    config = sweep()
    written = as_json(config, TRIALS)
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert written["best"] == TRIALS[2].name
    assert written["trials"][-1]["value"] is None
    page = as_markdown(config, TRIALS, "sweep.png")
    assert "`--set lora_rank=8 --set weight_decay=0.1`" in page
    assert "failed: step 3: the loss is nan" in page
    draw(config, TRIALS, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    draw(config, [], tmp_path / "empty.png")
    assert math.isnan(TRIALS[3].value("eval_loss"))
