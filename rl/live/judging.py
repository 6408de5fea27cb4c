"""What the log says of the fit and of the learned policy: all of it, once a night. No state.

log -> fit of what is older than a week -> replay of the week -> does the simulator fit?
    -> fit of all                                             -> what is believed from now on
    -> off-policy evaluation and simulation of the policy     -> evidence for its promotion
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ironcliw.errors import DataError, SettingsError
from ironcliw.settings import Settings
from rl.calibration.days import ReplayDay, days_of_log
from rl.calibration.fit import LEAST_STEPS, Fit, fit_log
from rl.calibration.overhead import overhead_of
from rl.calibration.regimes import regime_of_fit
from rl.calibration.replay import Replay, averaged, dearness, replay, saving
from rl.live.base import base_of, base_parameters
from rl.live.log import Log
from rl.live.samples import Exposure, exposure_of, in_stage, samples_of
from rl.neural import Learned
from rl.offpolicy import Gain, gain_of
from rl.parameters import Parameters
from rl.policy_file import PolicyFile
from rl.promotion import Evidence, Standing
from rl.schema import DIGEST
from rl.statistics import Ratio

WEEK = 7 * 86_400.0
DRAWS = 4
"""Of durations, that the last week is simulated with."""

_NONE = Exposure(0, 0)


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
        stage_gain: Of it by what was logged in its stage; None likewise.
        exposure: Of it in its stage.
        replay_gain: USD a day that it saves in the simulator; None: not simulated.
        cost_ratio: What the last week cost by what the tuned policy would have, both simulated.
    """

    fit: Fit | None
    why_no_fit: str = ""
    replay: Replay | None = None
    misfit: str = ""
    gain: Gain | None = None
    why_no_gain: str = ""
    stage_gain: Gain | None = None
    exposure: Exposure = _NONE
    replay_gain: float | None = None
    cost_ratio: Ratio | None = None

    def evidence(self, at: float) -> Evidence:
        """For the policy's promotion.

        Args:
            at: Unix seconds.
        """
        return Evidence(
            at,
            decisions=self.exposure.asked,
            gain=None if self.gain is None else self.gain.interval,
            no_verdict=self.why_no_gain if self.gain is None else self.gain.no_verdict,
            replay_gain=self.replay_gain,
            misfit=self.misfit or ("nothing was replayed" if self.replay is None else ""),
            workflows=self.exposure.workflows,
            stage_gain=None if self.stage_gain is None else self.stage_gain.interval,
        )


@dataclass(frozen=True, slots=True)
class _Week:
    """The last week, simulated by what was known before it.

    Attributes:
        replay: None: it could not be made.
        days: With durations drawn from the fit, all draws one after the other.
        true_days: With those of the log.
        misfit: Why they may not be believed.
    """

    replay: Replay | None
    days: list[ReplayDay]
    true_days: list[ReplayDay]
    misfit: str


def judge(
    log: Log,
    now: float,
    given: Mapping[str, Mapping[str, Any]],
    policy: Callable[[], Learned] | None = None,
    idle_seconds: float = 900.0,
    standing: Standing | None = None,
    tuned: Parameters | None = None,
) -> Judgement:
    """Everything that one night does.

    Args:
        log: Of the running system.
        now: Unix seconds.
        given: What is known of head and machines; see `regime_of_fit`.
        policy: Makes the learned policy that is on trial; None: there is none.
        idle_seconds: After which the system gives machines back.
        standing: Of that policy; None: it has none.
        tuned: Parameters of what decides without a learned policy; the packaged ones without.
    """
    stands = standing or Standing()
    exposure = exposure_of(log, stands)
    try:
        fit = fit_log(log)
    except DataError as error:
        why = str(error)
        return Judgement(None, why, misfit=why, why_no_gain=why, exposure=exposure)
    week = _replayed(log, now, given, idle_seconds)
    base = partial(base_of, tuned or base_parameters(), idle_seconds)
    gain, why = None, "no learned policy is installed"
    stage_gain = saves = None
    if policy is not None:
        file = policy().policy
        gain, why = _gain(log, file, now, idle_seconds)
        stage_gain, _ = _gain(in_stage(log, stands), file, now, idle_seconds)
        saves = saving(week.days, policy, base, idle_seconds) if week.days else None
    ratio = dearness(week.true_days, base, idle_seconds)
    return Judgement(
        fit, "", week.replay, week.misfit, gain, why, stage_gain, exposure, saves, ratio
    )


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


def _gain(log: Log, policy: PolicyFile, now: float, idle_seconds: float) -> tuple[Gain | None, str]:
    """(what a policy saves by a log, why that is not known)."""
    try:
        found = samples_of(
            log, policy.digest, now, tail_seconds=idle_seconds, schema=policy.schema or DIGEST
        )
        return gain_of(found), ""
    except DataError as error:
        return None, str(error)


def _replayed(
    log: Log, now: float, given: Mapping[str, Mapping[str, Any]], idle_seconds: float
) -> _Week:
    week, before = log.since(now - WEEK), log.until(now - WEEK)
    try:
        earlier = fit_log(before)
        regime = regime_of_fit(earlier, _priced(given, before.fleet.price_per_hour))
        of_week = partial(days_of_log, week, earlier, regime, overhead=overhead_of(before))
        draws = [of_week(draw=draw) for draw in range(DRAWS)]
        true_days = of_week(truth="log")
    except DataError as error:
        return _Week(None, [], [], f"no week could be held out ({error})")
    except SettingsError as error:
        return _Week(None, [], [], str(error))
    found = averaged([replay(days, week, idle_seconds) for days in draws])
    days = [day for one in draws for day in one]
    few = sum(len(one.steps) for one in week.workflows) < LEAST_STEPS
    misfit = f"the last week holds fewer than {LEAST_STEPS} steps" if few else found.misfit
    return _Week(found, days, true_days, misfit)


def _priced(
    given: Mapping[str, Mapping[str, Any]], price: float
) -> Mapping[str, Mapping[str, Any]]:
    """With the price that was paid, where it is known and no other is given."""
    if price <= 0:
        return given
    return {**given, "spot": {"dollars_per_hour": price, **given.get("spot", {})}}
