"""What the same command does with a sweep that was begun; Ray Tune is in tests/integration."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ironcliw.cli import main
from ironcliw.errors import SettingsError
from train.run_files import OUTCOME, RunFiles
from train.sweep import run
from train.sweep.begun import Begun, begin, check_begun
from train.sweep.points import trial_name
from train.sweep.run import read_trials
from train.sweep.telling import Teller, telling
from train.sweep.trial import RECORD, trial_uri

from .test_sweep import TRIALS, sweep

NOW = Begun("a" * 64, "b" * 64, "c" * 64, 2)
POINTS: list[dict[str, Any]] = [{"lora_rank": rank} for rank in (4, 8, 16, 32)]
CONFIG = sweep(space={"lora_rank": [4, 8, 16, 32]}, run={"model_name": "tiny"})


def test_the_threads_are_those_of_the_beginning(tmp_path: Path) -> None:
    files = RunFiles(str(tmp_path))
    assert begin(CONFIG, files, NOW, 8) == NOW
    check_begun(CONFIG, files)
    # a machine with more cores, where a sweep that is begun would have more threads
    assert begin(CONFIG, files, replace(NOW, threads=4), 16) == NOW
    with pytest.raises(SettingsError, match=r"with 2 threads a trial .* and here are 1 cores"):
        begin(CONFIG, files, replace(NOW, threads=1), 1)


def test_how_many_go_on_at_a_time_decides_the_threads(tmp_path: Path) -> None:
    files = RunFiles(str(tmp_path))
    begin(CONFIG, files, NOW, 8)
    changed = CONFIG.model_copy(update={"concurrent": 3})
    with pytest.raises(SettingsError, match=r"other values of concurrent \(1: it decides"):
        check_begun(changed, files)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("data", "the rows that are trained on"),
        ("held_out", "the held-out rows"),
        ("model", "the model's weights"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, key: str, words: str) -> None:
    files = RunFiles(str(tmp_path))
    begin(CONFIG, files, NOW, 8)
    with pytest.raises(
        SettingsError, match=rf"begun with other contents of {words} .*put them bac"
    ):
        begin(CONFIG, files, replace(NOW, **{key: "d" * 64}), 8)
    # what it was begun with is as it was
    assert begin(CONFIG, files, NOW, 8) == NOW


def test_one_of_an_older_release_goes_on(tmp_path: Path) -> None:
    files = RunFiles(str(tmp_path))
    files.write("sweep.json", CONFIG.model_dump(mode="json"))
    check_begun(CONFIG, files)
    assert begin(CONFIG, files, NOW, 8) == NOW


@dataclass
class TuneTrial:
    """What of a trial of Ray Tune's is looked at."""

    config: dict[str, Any]
    status: str
    error: str | None = None
    asked: list[str] = field(default_factory=list)

    def is_finished(self) -> bool:
        return self.status in ("TERMINATED", "ERROR")

    def get_pickled_error(self) -> None:
        return None

    def get_error(self) -> str | None:
        return self.error


def test_what_ctrl_c_stopped_is_unfinished(tmp_path: Path) -> None:
    for point in POINTS:
        history = [{"step": 4, "epoch": 1, "eval_loss": 1.5}]
        RunFiles(trial_uri(str(tmp_path), point)).write(RECORD, {"history": history})
    done = {"outcome": "finished"}
    RunFiles(trial_uri(str(tmp_path), POINTS[0])).write(OUTCOME, done)
    trials = [
        TuneTrial({"point": POINTS[0]}, "TERMINATED", "of a death that it went on after"),
        TuneTrial({"point": POINTS[1]}, "TERMINATED"),
        TuneTrial({"point": POINTS[2]}, "RUNNING"),
        TuneTrial({"point": POINTS[3]}, "ERROR", "no room"),
    ]
    with telling(lambda text: None) as ends:
        teller = Teller("eval_loss")
        teller.on_step_end(1, trials)
        # Tune ends what goes on before it says that the sweep is at its end
        trials[2].status = "TERMINATED"
        teller.on_experiment_end(trials)
    found = read_trials(CONFIG, str(tmp_path), ends)
    assert [trial.state for trial in found] == ["finished", "ended early", "unfinished", "failed"]
    assert [trial.error for trial in found] == ["", "", "", "no room"]
    assert ends.keys() == {trial_name(POINTS[at]) for at in (0, 1, 3)}


def test_a_sweep_that_has_nothing_left_to_do() -> None:
    with telling(lambda text: None) as ends:
        Teller("eval_loss").on_experiment_end([TuneTrial({"point": POINTS[0]}, "TERMINATED")])
    assert ends == {trial_name(POINTS[0]): ""}


def test_an_interrupted_sweep_has_not_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [TRIALS[0], replace(TRIALS[1], state="unfinished")]
    monkeypatch.setattr(run, "run_sweep", lambda *given: trials)
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(sweep().model_dump(mode="json", exclude_none=True)))
    with pytest.raises(SystemExit) as ended:
        main(["train", "tune", "--config", str(file)])
    assert ended.value.code == 130
    assert "1 of its 2 trials are not finished; the same command" in capsys.readouterr().err
