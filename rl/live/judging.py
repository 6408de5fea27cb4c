"""What the log says of the fit and of the learned policy: all of it, once a night. No state.

log -> fit of what is older than a week -> replay of the week -> does the simulator fit?
    -> fit of all                                             -> what is believed from now on
    -> off-policy evaluation and simulation of the policy     -> evidence for its promotion
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ironcliw.errors import DataError, SettingsError
from ironcliw.settings import Settings
from rl.calibration.days import ReplayDay, days_of_log
from rl.calibration.fit import LEAST_STEPS, Fit, fit_log
from rl.calibration.regimes import regime_of_fit
from rl.calibration.replay import Replay, averaged, compare, replay
from rl.greedy import Greedy
from rl.live.log import Log
from rl.live.samples import samples_of
from rl.neural import Learned
from rl.offpolicy import Gain, gain_of
from rl.parameters import load_parameters
from rl.promotion import Evidence
from rl.regime import Regime
from rl.simulator import simulate

WEEK = 7 * 86_400.0
DRAWS = 4
"""Of durations, that the last week is simulated with."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a night has found.

    Attributes:
        fit: Of the whole log; None: it holds too little.
        why_no_fit: Then; else empty.
        replay: Of the last week, by a fit of what was before; None: not made.
        misfit: Why the simulator may not be believed; empty: it may.
        gain: Of the learned policy by the log; None: there is no policy, or no sample.
        why_no_gain: Then.
        replay_gain: USD a day that it saves in the simulator; None: not simulated.
        cost_ratio: USD of the last week by what the tuned policy costs in the simulator.
    """

    fit: Fit | None
    why_no_fit: str = ""
    replay: Replay | None = None
    misfit: str = ""
    gain: Gain | None = None
    why_no_gain: str = ""
    replay_gain: float | None = None
    cost_ratio: float | None = None

    def evidence(self, decisions: int, at: float) -> Evidence:
        """For the policy's promotion.

        Args:
            decisions: That were made since its stage began.
            at: Unix seconds.
        """
        interval = None if self.gain is None else self.gain.interval
        why = self.why_no_gain if self.gain is None else self.gain.no_verdict
        misfit = self.misfit or ("nothing was replayed" if self.replay is None else "")
        return Evidence(at, decisions, interval, why, self.replay_gain, misfit)


def judge(
    log: Log,
    now: float,
    given: Mapping[str, Mapping[str, Any]],
    policy: Callable[[], Learned] | None = None,
    idle_seconds: float = 900.0,
) -> Judgement:
    """Everything that one night does.

    Args:
        log: Of the running system.
        now: Unix seconds.
        given: What is known of head and machines; see `regime_of_fit`.
        policy: Makes the learned policy that is on trial; None: there is none.
        idle_seconds: After which the system gives machines back.
    """
    try:
        fit = fit_log(log)
    except DataError as error:
        return Judgement(None, str(error), misfit=str(error), why_no_gain=str(error))
    found, days, misfit = _replayed(log, now, fit, given, idle_seconds)
    gain, why = None, "no learned policy is installed"
    saves = ratio = None
    if policy is not None:
        try:
            gain, why = gain_of(samples_of(log, policy().policy.digest, now)), ""
        except DataError as error:
            why = str(error)
        if days:
            saves = compare(days, policy, _tuned)[0]
    if found is not None and days:
        predicted = sum(_simulated(days)) / DRAWS
        ratio = found.figures["objective, USD"].logged / max(predicted, 1e-9)
    return Judgement(fit, "", found, misfit, gain, why, saves, ratio)


def known_of(settings: Settings, memory_gb: float, cores: float) -> dict[str, dict[str, Any]]:
    """What the settings and the head say of a regime.

    Args:
        settings: Of the cluster.
        memory_gb: Of the head.
        cores: Of the head.
    """
    budget, cloud = settings.budget, settings.cloud
    day = budget.month_usd if budget.day_usd is None else budget.day_usd
    low = min(5.0, 0.3 * memory_gb)
    return {
        "home": {
            "memory_gb": round(memory_gb, 3),
            "cores": cores,
            "user_gb": [round(low, 3), round(max(low, min(9.5, memory_gb - 2.5)), 3)],
        },
        "spot": {"machines": min(cloud.max_workers, 3) if cloud.project else 0},
        "costs": {"day_dollars": float(day), "month_dollars": float(budget.month_usd)},
    }


def _replayed(
    log: Log,
    now: float,
    fit: Fit,
    given: Mapping[str, Mapping[str, Any]],
    idle_seconds: float,
) -> tuple[Replay | None, list[ReplayDay], str]:
    """(the replay of the last week, its days, why it may not be believed)."""
    week = log.since(now - WEEK)
    before = Log(
        log.decisions,
        tuple(one for one in log.workflows if one.created_at < now - WEEK),
        log.fleet,
    )
    try:
        regime: Regime = regime_of_fit(fit, given)
        earlier = fit_log(before)
        draws = [days_of_log(week, earlier, regime, draw=draw) for draw in range(DRAWS)]
    except DataError as error:
        return None, [], f"no week could be held out ({error})"
    except SettingsError as error:
        return None, [], str(error)
    found = averaged([replay(days, week, idle_seconds) for days in draws])
    days = [day for one in draws for day in one]
    if sum(len(one.steps) for one in week.workflows) < LEAST_STEPS:
        return found, days, f"the last week holds fewer than {LEAST_STEPS} steps"
    return found, days, found.misfit


def _tuned() -> Greedy:
    return Greedy(load_parameters())


def _simulated(days: list[ReplayDay]) -> list[float]:
    return [simulate(one.day, _tuned()).cost for one in days]
