"""How often to save: the interval of Young and Daly, in optimizer steps.

A save costs C seconds, and a failure costs half an interval T on average, once in M seconds. The
sum of both losses, C / T + T / (2 M), is least at T = sqrt(2 C M) (Young, CACM 17(9), 1974; Daly,
FGCS 22(3), 2006, whose further terms matter only where T comes near M). The interval changes no
number of the run, so it may be chosen anew at any time; workers must agree on it, so one chooses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PRIOR_MTBF_HOURS = 40.0
"""Mean hours between losses of one Spot machine, expected before any was seen."""
MOST_SHARE = 0.05
"""Of the time that saves may take, whatever the hazard."""
MOST_SECONDS = 1800.0
"""No interval is longer, whatever a save costs: nobody likes to lose more."""


@dataclass(frozen=True, slots=True)
class SaveCost:
    """What a save costs, as measured.

    Attributes:
        blocking_seconds: For which training waits.
        durable_seconds: From the snapshot to its commit; training goes on for most of them.
        size_bytes: Of all files.
    """

    blocking_seconds: float
    durable_seconds: float
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """When to save, and what a kill without notice can cost.

    Attributes:
        steps: Optimizer steps from save to save, K.
        most_lost: Optimizer steps that a kill can cost: K, and those done while a save is written.
    """

    steps: int
    most_lost: int


def mean_seconds_between_failures(
    prior_hours: float = PRIOR_MTBF_HOURS,
    observed_hours: float = 0.0,
    failures: int = 0,
    machines: int = 1,
) -> float:
    """M of a run, learnt from what was seen: any machine's loss is the run's.

    The hazard of a machine has the prior Gamma(1, `prior_hours`), whose mean is 1 / `prior_hours`;
    after n failures in H hours its mean is (1 + n) / (`prior_hours` + H).

    Args:
        prior_hours: As if one machine had been lost in so many hours.
        observed_hours: Machine hours of the run so far.
        failures: Machines lost in them.
        machines: That the run uses at once.

    Raises:
        ValueError: an argument is out of its range.
    """
    _need(prior_hours > 0, "prior_hours", prior_hours, "above 0")
    _need(observed_hours >= 0, "observed_hours", observed_hours, "0 or more")
    _need(failures >= 0, "failures", failures, "0 or more")
    _need(machines >= 1, "machines", machines, "1 or more")
    return (prior_hours + observed_hours) / (1 + failures) / machines * 3600


def choose_interval(
    cost: SaveCost,
    step_seconds: float,
    mtbf_seconds: float,
    least: int = 1,
    most_seconds: float = MOST_SECONDS,
) -> Interval:
    """K = sqrt(2 C M) / step, between bounds.

    Args:
        cost: Of a save; C is the part that training waits for.
        step_seconds: Of an optimizer step without a save.
        mtbf_seconds: M, mean seconds between failures of the run.
        least: No fewer steps than this; nor so few that saves take over 5 % of the time.
        most_seconds: No longer than this, if `least` allows.

    Raises:
        ValueError: an argument is out of its range.
    """
    blocking, durable = cost.blocking_seconds, cost.durable_seconds
    _need(blocking >= 0, "blocking_seconds", blocking, "0 or more")
    _need(durable >= 0, "durable_seconds", durable, "0 or more")
    _need(step_seconds > 0, "step_seconds", step_seconds, "above 0")
    _need(mtbf_seconds > 0, "mtbf_seconds", mtbf_seconds, "above 0")
    _need(least >= 1, "least", least, "1 or more")
    wanted = round(math.sqrt(2 * blocking * mtbf_seconds) / step_seconds)
    affordable = math.ceil(blocking / (MOST_SHARE * step_seconds))
    steps = max(int(min(wanted, most_seconds / step_seconds)), affordable, least)
    return Interval(steps, most_lost(steps, step_seconds, durable))


def most_lost(steps: int, step_seconds: float, durable_seconds: float) -> int:
    """Optimizer steps that a kill without notice can cost, when saves are `steps` apart."""
    return steps + math.ceil(durable_seconds / step_seconds)


def _need(holds: bool, name: str, given: float, rule: str) -> None:
    if not (holds and math.isfinite(given)):
        raise ValueError(f"{name} is {given!r}; give a finite number, {rule}")
