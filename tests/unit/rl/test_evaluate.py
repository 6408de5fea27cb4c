"""`python -m rl evaluate`: figures that can be had again, and errors that can be understood."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from rl.__main__ import main
from rl.evaluate import BASE, baselines, days_of, evaluate
from rl.parameters import TUNED, load_parameters, written
from rl.queue_parameters import QueueParameters
from rl.regime import load_regime
from rl.statistics import paired_ratio

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"
LIGHT = str(FOLDER / "light.toml")


def test_an_interval_covers_the_truth_in_nineteen_of_twenty_cases() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        base = np.exp(random.normal(1.0, 0.8, 60))
        own = base * np.exp(random.normal(np.log(0.9), 0.2, 60) - 0.02)
        found = paired_ratio(own.tolist(), base.tolist(), seed=trial, resamples=500)
        covered += found.low <= 0.9 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_same_costs_have_the_ratio_one_and_no_width() -> None:
    found = paired_ratio([1.0, 5.0, 2.0], [1.0, 5.0, 2.0])
    assert (found.mean, found.low, found.high, found.geometric) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("own", "base", "message"),
    [
        ([1.0], [1.0, 2.0], "1 costs and 2 to compare with"),
        ([], [], "0 costs"),
        ([1.0], [0.0], "a day cost nothing"),
    ],
)
def test_days_that_cannot_be_paired(own: list[float], base: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_ratio(own, base)


def test_all_baselines_on_the_same_days() -> None:
    days = days_of(load_regime(Path(LIGHT)), 3, "validation", 8)
    found = evaluate(days, baselines())
    assert found[BASE]["ratio"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "geometric": 1.0}
    assert {"rule A: free memory", "rule B: large and long", "rule C: busy home", "always local",
            "always cloud", "greedy", BASE, "uniform progress"} <= set(found)  # fmt: skip
    for name, one in found.items():
        assert one["breaches"] == 0
        assert len(one["costs"]) == 8
        assert one["means"]["cost"] == pytest.approx(np.mean(one["costs"]), abs=1e-5), name


def test_the_command_writes_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    arguments = ["evaluate", "--regime", LIGHT, "--days", "3", "--seed", "7", "--json", str(out)]
    mine = tmp_path / "mine.toml"
    mine.write_text(written(QueueParameters(), {}, "made"))
    searched = ["--clairvoyant", "1", "--evaluations", "20", "--tuned", str(mine)]
    assert main([*arguments, *searched]) == 0
    page = json.loads(out.read_text())
    assert (page["regime"], page["split"], page["seed"], page["days"]) == ("light", "test", 7, 3)
    assert page["digest"] == load_regime(Path(LIGHT)).digest()
    known = page["clairvoyant"]
    assert known["starts"] == 2, "the tuned greedy, and the one that is given"
    assert known["bounds"][0] <= known["costs"][0] <= page["policies"][BASE]["costs"][0]
    printed = capsys.readouterr()
    assert "rule C: busy home" in printed.out and "3 days in" not in printed.out
    assert "rule C: busy home: 3 days in" in printed.err
    assert page["policies"].pop("mine")["costs"]
    first = {name: one["costs"] for name, one in page["policies"].items()}
    assert main(arguments) == 0
    again = json.loads(out.read_text())["policies"]
    assert {name: one["costs"] for name, one in again.items()} == first


def test_policies_may_be_compared_with_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mine = tmp_path / "out.json", tmp_path / "mine.toml"
    mine.write_text(written(QueueParameters(), {}, "made"))
    words = ["evaluate", "--regime", LIGHT, "--days", "2", "--tuned", str(mine)]
    assert main([*words, "--against", "mine", "--json", str(out)]) == 0
    page = json.loads(out.read_text())
    assert page["base"] == "mine" and page["policies"]["mine"]["ratio"]["mean"] == 1.0
    assert page["policies"][BASE]["ratio"]["mean"] != 1.0
    assert main([*words, "--against", "yours"]) == 1
    assert "--against 'yours' is none of the policies: rule A" in capsys.readouterr().err


def test_a_regime_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n[spot]\nmachines = 0\n[costs]\nday_dollars = 0.0\n')
    assert main(["evaluate", "--regime", str(path), "--days", "2"]) == 0
    assert "mine, 2 days of test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "mine"\n[spot]\nhazard_per_hour = [0.5, 0.1]\n', "ends before it begins"),
        ("name = mine", "is not TOML"),
    ],
)
def test_a_bad_regime_ends_with_a_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert main(["evaluate", "--regime", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_a_count_of_days_must_be_one(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "--regime", LIGHT, "--days", count])
    assert "is not a count; give 1 or more" in capsys.readouterr().err


def test_the_shipped_parameters_are_of_the_shipped_regimes() -> None:
    load_parameters()
    on = tomllib.loads(TUNED.read_text())["tuned_on"]
    for name, digest in on.items():
        assert load_regime(FOLDER / f"{name}.toml").digest() == digest


def test_nothing_of_it_imports_torch() -> None:
    code = "import sys, rl.evaluate, rl.features; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
