"""Fits to the decision log what the simulator and the live router believe.

Durations and memory are log-normal by function and place; what few rows say is drawn towards what
all rows say (a normal prior of `SHRINKAGE` rows on the logarithm's mean, and of `SIGMA_ROWS` on its
variance). The rate at which machines are taken back is Gamma, with one loss in forty hours before
anything is known (shared notes). Times are seconds, memory is in GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev

from actors.attempt_history import OUT_OF_MEMORY
from ironcliw.errors import DataError
from rl.live.log import Log, LoggedDecision, LoggedStep
from rl.work import KINDS, Z95

LEAST_STEPS = 30
"""Finished steps of functions below which nothing is fitted."""
SHRINKAGE = 5.0
SIGMA_ROWS = 5.0
PRIOR_SECONDS, PRIOR_SIGMA = 30.0, 0.7
PRIOR_MEMORY_GB, PRIOR_MEMORY_SIGMA = 0.3, 0.3
PRIOR_BOOT_SECONDS, PRIOR_BOOT_SIGMA = 90.0, 0.3
PRIOR_LOSSES, PRIOR_HOURS = 1.0, 40.0
HOME, CLOUD = "local", "spot"
_LEAST = 1e-3
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A belief of something above 0.

    Attributes:
        mu: Mean of its logarithm.
        sigma: Deviation of its logarithm.
        count: Rows that it was fitted to.
    """

    mu: float
    sigma: float
    count: int

    def __post_init__(self) -> None:
        good = math.isfinite(self.mu) and 0 <= self.sigma < 20 and self.count >= 0
        if not (good and abs(self.mu) < 50):
            raise DataError(
                f"a log-normal of mu {self.mu!r}, sigma {self.sigma!r} and {self.count!r} rows is "
                "impossible; fit again by `ironcliw route calibrate`"
            )

    @property
    def median(self) -> float:
        """Half lie below it."""
        return math.exp(self.mu)

    @property
    def mean(self) -> float:
        """Expected value."""
        return math.exp(self.mu + 0.5 * self.sigma**2)

    @property
    def p95(self) -> float:
        """19 of 20 lie below it."""
        return math.exp(self.mu + Z95 * self.sigma)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Workflows a day: mean, deviation between days, and days that were seen."""

    mean: float
    deviation: float
    days: int


@dataclass(frozen=True, slots=True)
class Fit:
    """What a log says.

    Attributes:
        begin: Unix seconds of its first row.
        end: Of its last.
        steps: Finished steps of functions in it.
        durations: Function -> place -> seconds.
        pooled: Place -> seconds, over all functions.
        memory: Function -> GB at most.
        pooled_memory: Over all functions.
        slowdown: Seconds in the cloud by seconds at home.
        losses: Of machines, the prior's among them.
        hours: That they ran, likewise.
        boot: Seconds from order to joining.
        arrivals: Of workflows.
        digest: SHA-256 of its file; empty until it was saved.
    """

    begin: float
    end: float
    steps: int
    durations: Mapping[str, Mapping[str, LogNormal]]
    pooled: Mapping[str, LogNormal]
    memory: Mapping[str, LogNormal]
    pooled_memory: LogNormal
    slowdown: LogNormal
    losses: float
    hours: float
    boot: LogNormal
    arrivals: Arrivals
    digest: str = field(default="", compare=False)

    @property
    def hazard_per_hour(self) -> float:
        """Mean of what is believed of a machine's being taken back."""
        return self.losses / self.hours

    def seconds(self, target: str, place: str, expected: float | None = None) -> LogNormal:
        """Of a function at a place.

        Args:
            target: Its name.
            place: `local` or `spot`.
            expected: What its author says, for one that was never seen there.
        """
        own = self.durations.get(target, {})
        if place in own:
            return own[place]
        other = own.get(HOME if place == CLOUD else CLOUD)
        if other is not None:
            shift = self.slowdown.mu if place == CLOUD else -self.slowdown.mu
            return LogNormal(other.mu + shift, other.sigma, other.count)
        if expected is not None and expected > 0:
            shift = self.slowdown.mu if place == CLOUD else 0.0
            return LogNormal(math.log(max(expected, _LEAST)) + shift, PRIOR_SIGMA, 0)
        return self.pooled[place]

    def memory_gb(self, target: str, stated: float | None = None) -> LogNormal:
        """Of a function; what its author states counts as its 95th percentile at the least."""
        found = self.memory.get(target)
        if stated is None or stated <= 0:
            return self.pooled_memory if found is None else found
        sigma = self.pooled_memory.sigma if found is None else found.sigma
        bound = LogNormal(math.log(stated) - Z95 * sigma, sigma, 0)
        return bound if found is None or found.p95 < stated else found


def prior() -> Fit:
    """What is believed before there is a log."""
    home = _prior(PRIOR_SECONDS, PRIOR_SIGMA)
    ratio = _prior(KINDS["function"].slowdown, 0.2)
    return Fit(
        begin=0.0,
        end=0.0,
        steps=0,
        durations={},
        pooled={HOME: home, CLOUD: LogNormal(home.mu + ratio.mu, home.sigma, 0)},
        memory={},
        pooled_memory=_prior(PRIOR_MEMORY_GB, PRIOR_MEMORY_SIGMA),
        slowdown=ratio,
        losses=PRIOR_LOSSES,
        hours=PRIOR_HOURS,
        boot=_prior(PRIOR_BOOT_SECONDS, PRIOR_BOOT_SIGMA),
        arrivals=Arrivals(16.0, 4.0, 0),
    )


def fit_log(log: Log) -> Fit:
    """Fit a log.

    Raises:
        DataError: it holds too few finished steps of functions.
    """
    before = prior()
    steps = [
        step
        for workflow in log.workflows
        for step in workflow.steps
        if step.kind == "function" and step.seconds is not None
    ]
    if len(steps) < LEAST_STEPS:
        raise DataError(
            f"the decision log holds {len(steps)} finished steps of functions, a fit needs "
            f"{LEAST_STEPS}; the shipped priors stay in use until there are more"
        )
    durations, pooled = _durations(steps, before)
    memory, pooled_memory = _memory(steps, log.decisions, before)
    times = [one.created_at for one in log.workflows]
    return Fit(
        begin=min(times),
        end=max(times),
        steps=len(steps),
        durations=durations,
        pooled=pooled,
        memory=memory,
        pooled_memory=pooled_memory,
        slowdown=_slowdown(durations, before.slowdown),
        losses=PRIOR_LOSSES + log.fleet.losses,
        hours=PRIOR_HOURS + log.fleet.hours,
        boot=shrunk([math.log(max(one, 1.0)) for one in log.fleet.boots], before.boot),
        arrivals=_arrivals(times),
    )


def shrunk(logs: Sequence[float], centre: LogNormal, weight: float = SHRINKAGE) -> LogNormal:
    """A fit to logarithms, drawn towards a centre that counts as `weight` rows.

    The deviation is that of a prediction: it holds what is not known of the mean, too.
    """
    count = len(logs)
    if not count:
        return LogNormal(centre.mu, centre.sigma, 0)
    own = fmean(logs)
    mu = (count * own + weight * centre.mu) / (count + weight)
    squares = sum((one - own) ** 2 for one in logs)
    variance = (SIGMA_ROWS * centre.sigma**2 + squares) / (SIGMA_ROWS + count)
    return LogNormal(mu, math.sqrt(variance * (1.0 + 1.0 / (count + weight))), count)


def _prior(median: float, sigma: float) -> LogNormal:
    return LogNormal(math.log(median), sigma, 0)


def _durations(
    steps: Sequence[LoggedStep], before: Fit
) -> tuple[dict[str, dict[str, LogNormal]], dict[str, LogNormal]]:
    logs: dict[str, dict[str, list[float]]] = {HOME: {}, CLOUD: {}}
    for step in steps:
        place = CLOUD if step.place == CLOUD else HOME
        value = math.log(max(step.seconds or 0.0, _LEAST))
        logs[place].setdefault(step.target, []).append(value)
    pooled = {place: _between(own.values(), before.pooled[place]) for place, own in logs.items()}
    durations: dict[str, dict[str, LogNormal]] = {}
    for place, own in logs.items():
        for target, values in own.items():
            durations.setdefault(target, {})[place] = shrunk(values, pooled[place], 1.0)
    return durations, pooled


def _between(groups: Iterable[Sequence[float]], before: LogNormal) -> LogNormal:
    """What is believed of a function that was never seen: each that was counts once.

    Its deviation is that of a function's own runs; see `shrunk` for how much it draws.
    """
    means, spreads = [], []
    for values in groups:
        means.append(fmean(values))
        spreads += [value - means[-1] for value in values]
    if not means:
        return LogNormal(before.mu, before.sigma, 0)
    mu = (sum(means) + SHRINKAGE * before.mu) / (len(means) + SHRINKAGE)
    squares = sum(one**2 for one in spreads)
    variance = (SIGMA_ROWS * before.sigma**2 + squares) / (SIGMA_ROWS + len(spreads))
    return LogNormal(mu, math.sqrt(variance), len(spreads))


def _memory(
    steps: Sequence[LoggedStep], decisions: Sequence[LoggedDecision], before: Fit
) -> tuple[dict[str, LogNormal], LogNormal]:
    """Of attempts that ended well what they held, of those ended for want of it what was believed.

    The latter held at least about that much; without them only what fits would ever be learned.
    """
    logs: dict[str, list[float]] = {}
    for decision in decisions:
        target, bound = _out_of_memory(decision)
        if target and bound > 0:
            logs.setdefault(target, []).append(math.log(bound))
    for step in steps:
        if step.peak_gb is not None and step.peak_gb > 0:
            logs.setdefault(step.target, []).append(math.log(step.peak_gb))
    pooled = _between(logs.values(), before.pooled_memory)
    return {target: shrunk(values, pooled, 1.0) for target, values in logs.items()}, pooled


def _out_of_memory(decision: LoggedDecision) -> tuple[str, float]:
    """Function and GB that it was believed to stay below; ("", 0) where that was not passed."""
    if (decision.outcome or {}).get("cause") != OUT_OF_MEMORY:
        return "", 0.0
    bound = decision.features.get("memory_p95_gb")
    return str((decision.details or {}).get("target") or ""), float(bound or 0.0)


def _slowdown(durations: Mapping[str, Mapping[str, LogNormal]], before: LogNormal) -> LogNormal:
    """Of functions that ran at both places."""
    both = [own[CLOUD].mu - own[HOME].mu for own in durations.values() if len(own) == 2]
    return shrunk(both, before)


def _arrivals(times: Sequence[float]) -> Arrivals:
    """By days of 24 hours from the first; a last day that is not half over is left out."""
    begin, end = min(times), max(times)
    days = max(1, round((end - begin) / _DAY))
    counts = [0] * days
    for at in times:
        counts[min(int((at - begin) / _DAY), days - 1)] += 1
    mean = fmean(counts)
    deviation = pstdev(counts) if days > 1 else math.sqrt(mean)
    return Arrivals(mean, deviation, days)
