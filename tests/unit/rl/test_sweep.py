"""What a sweep may say, which trials it has, and how its results are told."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.errors import SettingsError
from rl.live import base
from rl.parameters import TUNED, written
from rl.queue_parameters import QueueParameters
from rl.regime import load_regime
from rl.sweep.config import SweepConfig, read_sweep
from rl.sweep.regimes import received, received_base, sent
from rl.sweep.results import ranked, table, write
from rl.sweep.run import Trial

SPACE = {"learning_rate": {"log_uniform": [1e-5, 1e-3]}, "hidden": [32, 64]}


def _config(**changes: Any) -> SweepConfig:
    given = {"name": "one", "rounds": 3, "samples": 4, "space": SPACE}
    return SweepConfig.model_validate({**given, **changes})


def test_a_draw_is_the_same_again_and_within_its_range() -> None:
    points = _config(samples=200).points()
    assert points == _config(samples=200).points()
    assert points != _config(samples=200, seed=1).points()
    rates = [point["learning_rate"] for point in points]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    # every order of magnitude is as likely as another
    assert 70 <= sum(rate < 1e-4 for rate in rates) <= 130
    assert {point["hidden"] for point in points} == {32, 64}


def test_without_samples_every_combination_is_a_trial() -> None:
    config = _config(samples=0, space={"a": [1, 2], "b": ["x", "y", "z"]})
    assert len(config.points()) == 6
    assert {"a": 2, "b": "z"} in config.points()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds = 0", "rounds: Input should be greater than or equal to 1"),
        ("rounds = 1\n[space]\nlr = {uniform = [2, 1]}", r"uniform is \[2.0, 1.0\]; the first"),
        ("rounds = 1\n[space]\nlr = {log_uniform = [0, 1]}", "both must be above 0"),
        ("rounds = 1\n[space]\nlr = {uniform = [0, 1], choice = [1]}", "give one of choice"),
        ("rounds = 1\n[space]\nlr = {uniform = [0, 1]}", "space.lr is no choice; set samples"),
        ("rounds = 1\n[fixed]\nlr = 1\n[space]\nlr = [1]", "lr is in space and in fixed"),
        ("rounds = 1\nspace = {}", "space: Dictionary should have at least 1 item"),
        ("round = 1", "rounds: Field required.*round: Extra inputs"),
    ],
)
def test_a_sweep_that_is_wrong_says_what(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(f'name = "one"\n{text}\n')
    with pytest.raises(SettingsError, match=rf"sweep.toml is no sweep: .*{message}"):
        read_sweep(path)


def test_files_that_are_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone.toml cannot be read \(No such file"):
        read_sweep(tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_text("name = one")
    with pytest.raises(SettingsError, match=r"bad.toml is not TOML"):
        read_sweep(tmp_path / "bad.toml")


TRIALS = [
    Trial({"learning_rate": 1e-4, "hidden": 32}, {1: 1.02, 2: 0.99}, "ended early"),
    Trial({"learning_rate": 3e-4, "hidden": 64}, {}, "failed", "OSError: no room"),
    Trial({"learning_rate": 2e-5, "hidden": 64}, {1: 1.0, 2: 0.95, 3: 0.97}, "finished"),
]


def test_the_best_comes_first_and_what_has_no_figure_last() -> None:
    assert [one.state for one in ranked(TRIALS)] == ["finished", "ended early", "failed"]
    lines = table(_config(), TRIALS).splitlines()
    assert "| 2e-05 | 64 | 0.9500 | 3 | finished |" in lines
    assert "| 0.0003 | 64 |  | 0 | failed: OSError: no room |" == lines[-1]


def test_results_are_files_whose_bytes_are_the_same_again(tmp_path: Path) -> None:
    pages = [write(_config(), TRIALS, tmp_path / name) for name in ("a", "b")]
    for name in ("results.md", "results.json", "results.svg"):
        first, second = ((page.parent / name).read_bytes() for page in pages)
        assert first == second and first
    found = json.loads((tmp_path / "a" / "results.json").read_text())
    assert found["trials"][0]["ratios"] == {"1": 1.0, "2": 0.95, "3": 0.97}
    assert math.isclose(TRIALS[0].best or 0.0, 0.99)


TINY = {
    "regimes": [str(Path(__file__).parents[3] / "rl" / "regimes" / "light.toml")],
    "decisions": 30,
    "validation": 1,
    "epochs": 1,
    "members": 1,
    "width": 8,
    "horizon": 600.0,
    "randomised": 0.0,
    "margins": [0.3],
    "confirmation": 1,
    "model": "network",
}


def test_a_learning_goes_on_from_the_rounds_that_are_done(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra rl")
    from rl.policy_file import load_policy
    from rl.sweep.learning import POLICY, train

    whole, halves = tmp_path / "whole", tmp_path / "halves"
    told: dict[str, list[tuple[int, float]]] = {"whole": [], "halves": []}
    for folder, rounds in ((whole, 2), (halves, 1), (halves, 2)):
        folder.mkdir(exist_ok=True)
        train(TINY, folder, rounds, lambda *one, name=folder.name: told[name].append(one))
    assert [number for number, _ in told["whole"]] == [1, 2]
    # `rounds` is no number of the learning's own: the second half is what the whole would be
    assert told["halves"] == told["whole"]
    policies = [load_policy(folder / POLICY) for folder in (whole, halves)]
    for one, other in zip(policies[0].layers, policies[1].layers, strict=True):
        assert (one[0] == other[0]).all()
    train(TINY, whole, 2, lambda number, ratio: pytest.fail(f"round {number} is done again"))
    labels = whole / "labels-0001.npz"
    with np.load(labels) as file:
        np.savez(labels, **{name: file[name] for name in file.files if name != "effects"})
    with pytest.raises(
        SettingsError, match=r"labels-0001.npz are of another release: they have no"
    ):
        train(TINY, whole, 3, lambda number, ratio: None)


def test_a_trial_in_another_folder_has_the_sweeps_regimes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regimes = Path(__file__).parents[3] / "rl" / "regimes"
    shutil.copy(regimes / "light.toml", tmp_path / "mine.toml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text(written(QueueParameters(order_left=1.5), {}, "made"))
    told = sent({"regimes": ["mine.toml"], "base": "base.toml", "width": 8})
    (tmp_path / "trial").mkdir()
    monkeypatch.chdir(tmp_path / "trial")
    [found] = received(json.loads(json.dumps(told)))
    assert received_base(json.loads(json.dumps(told))) == QueueParameters(order_left=1.5)
    monkeypatch.setattr(base, "PACKAGED", (tmp_path / "base.toml", TUNED))
    assert received_base({}) == QueueParameters(order_left=1.5), "as `python -m rl train` does"
    with pytest.raises(SettingsError, match=r"the sweep's base is 3; set fixed.base to a file"):
        received_base({"base": 3})
    assert found.digest() == load_regime(regimes / "light.toml").digest()
    assert told["width"] == 8
    assert sent({"rate": 1.0}) == {"rate": 1.0}, "a trainer of one's own may need none"
    with pytest.raises(SettingsError, match=r"mine.toml cannot be read"):
        sent({"regimes": ["mine.toml"]})


def test_a_learning_that_is_told_nonsense() -> None:
    pytest.importorskip("torch", reason="needs the extra rl")
    from rl.sweep.learning import train

    def tell(number: int, ratio: float) -> None: ...

    with pytest.raises(SettingsError, match="the sweep: training has no value 'speed'"):
        train({"speed": 3.0}, Path("."), 1, tell)
    with pytest.raises(SettingsError, match=r"names no regimes; set fixed.regimes"):
        train({}, Path("."), 1, tell)
    for name in ("cloned", "ppo_steps"):
        with pytest.raises(SettingsError, match=f"{name} is set, and its rounds are of labels"):
            train({**TINY, name: 5}, Path("."), 1, tell)
