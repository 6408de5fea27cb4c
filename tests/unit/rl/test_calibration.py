"""Fits to a log whose truth is known, their files, the regime made of them, and the replay."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.errors import DataError, NewerFormatError
from rl.calibration.days import days_of_log
from rl.calibration.files import load_fit, save_fit
from rl.calibration.fit import LEAST_STEPS, Fit, LogNormal, fit_log, prior, shrunk
from rl.calibration.regimes import hazard_range, regime_of_fit
from rl.calibration.replay import averaged, replay
from rl.greedy import Greedy
from rl.live.judging import WEEK, judge
from rl.live.log import Log
from rl.live.training import toml_of
from rl.parameters import Parameters
from rl.queue_parameters import QueueParameters
from rl.regime import load_regime
from rl.simulator import simulate
from rl.workload import make_day
from tests.unit.rl.live.logs import BEGIN, DAY, decision_of, log_of

LOG = log_of()
FIT = fit_log(LOG)
GIVEN: dict[str, dict[str, Any]] = {
    "home": {"memory_gb": 16.0, "cores": 8.0, "user_gb": [5.0, 9.0]},
    "spot": {"machines": 2, "dollars_per_hour": 0.0638},
    "costs": {"day_dollars": 4.0, "month_dollars": 40.0},
}


def test_durations_and_memory_are_found_again() -> None:
    own = FIT.durations["f"]["local"]
    assert own.median == pytest.approx(100.0, rel=0.08)
    assert own.sigma == pytest.approx(0.3, rel=0.15)
    assert own.count == 21 * 12
    assert FIT.durations["g"]["spot"].median == pytest.approx(65.0, rel=0.1)
    assert FIT.slowdown.median == pytest.approx(1.3, rel=0.15)
    assert FIT.memory["f"].median == pytest.approx(0.8, rel=0.05)
    assert FIT.boot.median == pytest.approx(90.0, rel=0.01)
    assert (FIT.arrivals.mean, FIT.arrivals.deviation) == (12.0, 0.0)


def test_what_ran_out_of_memory_is_learned_from() -> None:
    killed = decision_of(
        features={"memory_p95_gb": 6.0},
        details={"target": "f"},
        outcome={"outcome": "lost", "cause": "OutOfMemoryError"},
    )
    other = replace(killed, outcome={"outcome": "lost", "cause": "WorkerCrashedError"})
    before = LOG.decisions
    assert fit_log(replace(LOG, decisions=(*before, *[other] * 30))).memory == FIT.memory
    found = fit_log(replace(LOG, decisions=(*before, *[killed] * 30))).memory["f"]
    assert found.p95 > 2.0 * FIT.memory["f"].p95
    assert found.count == FIT.memory["f"].count + 30


def test_few_rows_say_little() -> None:
    centre = LogNormal(math.log(30.0), 0.7, 0)
    one = shrunk([math.log(300.0)], centre)
    many = shrunk([math.log(300.0)] * 100, centre)
    assert 30 < one.median < 60
    assert many.median == pytest.approx(300.0, rel=0.12)
    assert many.sigma < one.sigma
    assert shrunk([], centre) == centre


def test_what_was_never_seen_is_derived() -> None:
    assert FIT.seconds("f", "spot").median == pytest.approx(
        FIT.durations["f"]["local"].median * FIT.slowdown.median
    )
    new = FIT.seconds("new", "local", 700.0)
    assert (new.median, new.count) == (pytest.approx(700.0), 0)
    assert FIT.seconds("new", "local") == FIT.pooled["local"]
    assert FIT.memory_gb("f", 4.0).p95 == pytest.approx(4.0), "its author's bound holds"
    assert FIT.memory_gb("f", 0.1) == FIT.memory["f"], "what was measured is more"
    assert FIT.memory_gb("new").p95 > 0


def test_a_hazard_is_learned_from_losses_and_hours() -> None:
    assert FIT.hazard_per_hour == pytest.approx(3.0 / (40.0 + LOG.fleet.hours))
    low, high = hazard_range(FIT)
    draws = np.random.default_rng(0).gamma(FIT.losses, 1.0 / FIT.hours, 200_000)
    assert low == pytest.approx(float(np.percentile(draws, 5)), rel=0.05)
    assert high == pytest.approx(float(np.percentile(draws, 95)), rel=0.05)


def test_too_few_rows_are_no_fit() -> None:
    few = Log(LOG.decisions, LOG.workflows[:14], LOG.fleet)
    with pytest.raises(DataError, match=f"holds 28 finished steps.*needs {LEAST_STEPS}"):
        fit_log(few)
    with pytest.raises(DataError, match="holds 0 finished steps"):
        fit_log(Log())


def test_a_fit_is_kept_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "routing" / "fit.json"
    saved = save_fit(path, FIT)
    found = load_fit(path)
    assert found == FIT
    assert found.digest == saved.digest != ""
    assert save_fit(tmp_path / "again.json", prior()).digest != saved.digest


def _page(path: Path) -> dict[str, Any]:
    save_fit(path, FIT)
    page: dict[str, Any] = json.loads(path.read_text())
    return page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda page: page["fit"]["boot"].update(mu=1.0), "was changed after it was written"),
        (lambda page: page.update(format_version=2), "has format 2, this release reads up to 1"),
        (lambda page: page.pop("fit"), "is no fit; make one by `ironcliw route calibrate`"),
        (lambda page: page.update(format_version="x"), "is no fit"),
    ],
)
def test_a_damaged_fit_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "fit.json"
    page = _page(path)
    change(page)
    path.write_text(json.dumps(page))
    with pytest.raises((DataError, NewerFormatError), match=message):
        load_fit(path)


def test_files_that_are_no_fit(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    with pytest.raises(DataError, match="cannot be read"):
        load_fit(path)
    path.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        load_fit(path)
    path.write_text('{"format_version": 1, "fit": {"begin": NaN}}')
    with pytest.raises(DataError, match="holds NaN, which is no number"):
        load_fit(path)


@pytest.mark.parametrize("values", [(math.nan, 1.0, 1), (0.0, -1.0, 1), (99.0, 1.0, 1)])
def test_an_impossible_belief_is_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(DataError, match="is impossible; fit again"):
        LogNormal(*values)


def test_the_fit_becomes_a_regime_whose_days_can_be_simulated(tmp_path: Path) -> None:
    regime = regime_of_fit(FIT, GIVEN)
    assert regime.arrivals.workflows_per_day == (12.0, 12.0)
    assert regime.spot.machines == 2
    assert regime.spot.hazard_per_hour == tuple(hazard_range(FIT))
    path = tmp_path / "calibrated.toml"
    path.write_text(toml_of(regime, "a fit"))
    assert load_regime(path).digest() == regime.digest()
    day = make_day(regime, 1, "train", 0)
    assert simulate(day, Greedy()).unfinished == 0


def test_a_log_that_goes_on_as_before_fits() -> None:
    fit = fit_log(Log(LOG.decisions, LOG.workflows[: 14 * 12], LOG.fleet))
    week = LOG.since(BEGIN + 14 * DAY)
    days = days_of_log(week, fit, regime_of_fit(fit, GIVEN))
    assert [len(one.workflows) for one in days] == [12] * 7
    regime = regime_of_fit(fit, GIVEN)
    draws = [days_of_log(week, fit, regime, draw=draw) for draw in range(4)]
    found = averaged([replay(one, week) for one in draws])
    assert found.misfit == ""
    logged = np.mean([one.finished_at - one.created_at for one in week.workflows])  # type: ignore[operator]
    assert logged == pytest.approx(200.0, rel=0.1)


def test_the_truth_of_the_log_is_replayed_nearly_exactly() -> None:
    fit = fit_log(LOG)
    week = LOG.since(BEGIN + 14 * DAY)
    found = replay(days_of_log(week, fit, regime_of_fit(fit, GIVEN), "log"), week)
    flow = found.figures["flow time times priority, hours"]
    assert flow.simulated == pytest.approx(flow.logged, rel=0.05)


def test_a_log_that_has_changed_does_not_fit_and_says_why() -> None:
    log = log_of(later=1.6)
    found = judge(log, BEGIN + 21 * DAY, GIVEN)
    assert found.fit is not None
    assert "flow time times priority, hours" in found.misfit
    assert "in the simulator and" in found.misfit
    evidence = found.evidence(BEGIN + 21 * DAY)
    assert evidence.misfit == found.misfit


@pytest.mark.parametrize("tuned", [None, QueueParameters()])
def test_a_night_judges_all_of_it(tuned: Parameters | None) -> None:
    found = judge(LOG, BEGIN + 21 * DAY, GIVEN, tuned=tuned)
    assert found.fit == FIT
    assert found.misfit == ""
    assert found.cost_ratio is not None
    assert 0.5 < found.cost_ratio.low <= found.cost_ratio.mean <= found.cost_ratio.high < 2.0
    assert found.why_no_gain == "no learned policy is installed"


def test_a_week_without_a_past_is_not_believed() -> None:
    found = judge(log_of(7), BEGIN + 7 * DAY, GIVEN)
    assert found.fit is not None
    assert "no week could be held out (the decision log holds 0" in found.misfit
    short = judge(log_of(20, daily=3), BEGIN + 20 * DAY + WEEK - 1.5 * DAY, GIVEN)
    assert "the last week holds fewer than" in short.misfit


def test_an_empty_log_is_said_to_be_one() -> None:
    found = judge(Log(), 0.0, GIVEN)
    assert found.fit is None
    assert "holds 0 finished steps" in found.why_no_fit
    assert found.misfit == found.why_no_fit


def test_nothing_that_has_ended_is_nothing_to_replay() -> None:
    open_ = replace(LOG, workflows=tuple(replace(one, finished_at=None) for one in LOG.workflows))
    with pytest.raises(DataError, match="no workflow of the decision log has ended"):
        days_of_log(open_, FIT, regime_of_fit(FIT, GIVEN))


def test_the_prior_is_a_fit_too(tmp_path: Path) -> None:
    fit: Fit = prior()
    assert load_fit(_saved(tmp_path, fit)) == fit
    assert regime_of_fit(fit, GIVEN).name == "calibrated"


def _saved(folder: Path, fit: Fit) -> Path:
    save_fit(folder / "prior.json", fit)
    return folder / "prior.json"
