"""The search for parameters: it finds what days reward, fairly, and does the same again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ironcliw.errors import SettingsError
from rl.__main__ import main
from rl.cma import Cma
from rl.greedy import Greedy, GreedyParameters
from rl.parameters import load_tuned, policy_of
from rl.queue_aware import QueueAware
from rl.queue_parameters import QueueParameters
from rl.regime import load_regime
from rl.simulator import simulate
from rl.sources import RandomisedDays, RegimeDays
from rl.tuning import Progress, Search, score, sums_of, tune
from rl.work import Day
from tests.unit.rl.made_days import made_day, plain_regime, step

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"


def _keeping_pays(number: int) -> Day:
    """One large step every 10 minutes: to keep the machine saves a start each time."""
    regime = plain_regime(costs={"day_dollars": 5.0}, spot={"dollars_per_hour": 0.001})
    return made_day([(600.0 * at, [step(20, 20.0)]) for at in range(1, 12)], regime)


def test_tuning_finds_what_a_day_rewards() -> None:
    start = GreedyParameters()
    search = Search(generations=12, population=10, days=1, spread=0.6)
    day, told = _keeping_pays(0), list[Progress]()
    found = tune(start, start, [_keeping_pays], search, lambda one, _: told.append(one))
    assert simulate(day, policy_of(found)).cost < 0.8 * simulate(day, policy_of(start)).cost
    assert [one.generation for one in told] == list(range(13))
    assert told[0].centre == pytest.approx(1.0, rel=0.01) and told[-1].centre < 0.95


def test_tuning_is_the_same_on_two_processes() -> None:
    sources = [RegimeDays(load_regime(FOLDER / "light.toml"), 3), RandomisedDays(3)]
    search = Search(generations=2, population=4, days=4)
    base = GreedyParameters()
    alone = tune(base, base, sources, search)
    assert tune(base, base, sources, replace(search, processes=2)) == alone
    assert tune(base, base, sources, replace(search, first=4)) != alone


def test_all_candidates_meet_the_same_days() -> None:
    source = RegimeDays(load_regime(FOLDER / "light.toml"), 3)
    own = GreedyParameters(idle_seconds=900.0)
    sums = sums_of((source, 5, 2), [GreedyParameters(), own, GreedyParameters()])
    assert sums[0] == sums[2] != sums[1]
    assert sums[0][0] == sum(simulate(source(number), Greedy()).cost for number in (5, 6))


def test_dollars_beyond_a_twentieth_count_double() -> None:
    assert score((5.0, 1.05), (10.0, 1.0)) == 0.5
    assert score((5.0, 1.15), (10.0, 1.0)) == pytest.approx(0.7)


def test_the_strategy_finds_the_minimum_of_an_ill_conditioned_bowl() -> None:
    weights = 10.0 ** np.arange(0.0, 4.0)  # of axes of 1 to 1,000 times the curvature
    cma = Cma(np.full(4, 3.0), 1.0, 10, seed=1)
    for _ in range(220):
        points = cma.ask()
        cma.tell(points, (points**2 * weights).sum(axis=1))
    assert np.abs(cma.mean).max() < 1e-4


def test_the_command_writes_what_can_be_evaluated(tmp_path: Path) -> None:
    out, regime = tmp_path / "mine.toml", str(FOLDER / "light.toml")
    words = ["tune", "--policy", "queue-aware", "--regime", regime, "--days", "1",
             "--generations", "1", "--population", "4", "--out", str(out)]  # fmt: skip
    assert main(words) == 0
    found = load_tuned(out)
    assert isinstance(found, QueueParameters) and found != QueueParameters()
    assert isinstance(policy_of(found), QueueAware)
    assert main(["evaluate", "--regime", regime, "--days", "1", "--tuned", str(out)]) == 0


def test_what_is_held_out_and_what_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "mine.toml")
    assert main(["tune", "--regime", str(FOLDER / "bursty.toml"), "--out", out]) == 1
    assert "regime 'bursty' is held out" in capsys.readouterr().err
    words = ["tune", "--regime", str(FOLDER / "light.toml"), "--policy", "queue-aware"]
    start = str(FOLDER.parent / "tuned_greedy.toml")
    assert main([*words, "--start", start, "--out", out]) == 1
    assert "is not of the queue-aware policy" in capsys.readouterr().err


def test_a_parameter_that_is_no_positive_number_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"parameter ahead of the queue-aware .* above 0"):
        QueueParameters.of({"ahead": 0.0})
    with pytest.raises(SettingsError, match="the queue-aware policy has no parameter 'luck'"):
        QueueParameters.of({"luck": 1.0})
