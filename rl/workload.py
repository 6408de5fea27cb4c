"""Draws days from a regime.

`make_day(regime, seed, split, number)` gives the same day on every machine. Days of training, of
validation and of tests come from different streams, whatever their seeds and numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rl.beliefs import Cloud, workflow_of
from rl.draws import Draws, seed_of
from rl.regime import Regime, Shape
from rl.shapes import SHAPES
from rl.traces import Split, Traces, load_traces
from rl.work import ZONES, Day, Workflow

HOUR = 3600.0
DAY = 24 * HOUR
HISTORY_HOURS = 20.0
DRAIN = 36 * HOUR  # after midnight, for what is left: another day of money and more
_MOST_TRIES = 100_000  # of drawing gaps, far above any regime's need


def make_day(
    regime: Regime, seed: int, split: Split, number: int, *, data: Path | None = None
) -> Day:
    """A day.

    Args:
        regime: The ranges.
        seed: Of the whole set of days.
        split: Which set; no two share a draw.
        number: Within the set.
        data: The data folder, for a regime that needs traces.

    Raises:
        DataError: the regime needs traces, and there is no folder or a file is absent.
    """
    draws = Draws(seed_of("day", regime.name, seed, split, number))
    traces = None
    if regime.needs_traces:
        traces = load_traces(data or Path("."), regime.arrivals.source, split)
    facts = draws.stream("facts")
    spot = regime.spot
    hazard = _rate(facts, spot.hazard_per_hour, 1)
    slowdown = facts.log_between(*spot.slowdown, 2)
    boot = facts.between(*spot.boot_seconds, 3)
    until = DAY + DRAIN
    outages = tuple(_outages(draws.stream("outages"), regime, zone, until) for zone in range(ZONES))
    workflows = _workflows(regime, draws, traces, Cloud(slowdown, boot))
    return Day(
        regime=regime,
        name=f"{regime.name}/{split}/{seed}/{number}",
        workflows=workflows,
        user_gb=_user(draws.stream("user"), regime, until),
        shocks=shocks(draws.stream("shocks"), hazard, outages, spot.machines, until),
        outages=outages,
        hazard_per_hour=hazard,
        stockout=facts.between(*spot.stockout, 4),
        boot_median=boot,
        megabytes_per_second=facts.between(*spot.megabytes_per_second, 5),
        history=(_losses(draws.stream("history"), hazard), HISTORY_HOURS),
        draws=draws,
        until=until,
        month_spent=month_spent(regime, facts.uniform(6)),
    )


def month_spent(regime: Regime, share: float) -> float:
    """USD of the month's money that are gone when a day begins.

    Enough for this day and the one in which its work ends is always left, as where the day's cap
    was kept: with none left, work that fits no head waits for the next month whoever decides, and
    those few days would be a third of all cost.

    Args:
        regime: Whose caps.
        share: Of what may be gone, 0 to 1.
    """
    costs = regime.costs
    return share * max(0.0, costs.month_dollars - 2.0 * costs.day_dollars)


def _rate(draws: Draws, bounds: tuple[float, float], key: int) -> float:
    """Log-uniform; uniform where the range begins at 0, which has no logarithm."""
    low, high = bounds
    return draws.log_between(low, high, key) if low > 0 else draws.between(low, high, key)


def _losses(draws: Draws, hazard: float) -> int:
    """Of a machine that ran for HISTORY_HOURS: what the scheduler has learned of the hazard."""
    hours, count = 0.0, 0
    while hazard > 0:
        hours += draws.exponential(1.0 / hazard, count)
        if hours > HISTORY_HOURS:
            break
        count += 1
    return count


def _user(draws: Draws, regime: Regime, until: float) -> tuple[tuple[float, float], ...]:
    """At night the user holds what lies in the lower third of the range."""
    low, high = regime.home.user_gb
    begin, end = regime.arrivals.active_hours
    now, found = 0.0, []
    for key in range(_MOST_TRIES):
        is_awake = begin <= (now % DAY) / HOUR < end
        found.append(
            (now, draws.between(low, high if is_awake else low + (high - low) / 3, key, 0))
        )
        now += draws.exponential(regime.home.user_change_seconds, key, 1)
        if now >= until:
            break
    return tuple(found)


def _outages(
    draws: Draws, regime: Regime, zone: int, until: float
) -> tuple[tuple[float, float], ...]:
    daily = draws.between(*regime.spot.outages_per_day, 0, 0)
    if daily <= 0:
        return ()
    now, found = 0.0, []
    for key in range(_MOST_TRIES):
        now += draws.exponential(DAY / daily, zone, key, 1)
        if now >= until:
            break
        end = now + draws.exponential(60 * regime.spot.outage_minutes, zone, key, 2)
        found.append((now, end))
        now = end
    return tuple(found)


def shocks(
    draws: Draws,
    hazard: float,
    outages: Sequence[Sequence[tuple[float, float]]],
    slots: int,
    until: float,
) -> tuple[tuple[float, int, int], ...]:
    """Poisson in every zone and slot, and all machines of a zone as an outage begins."""
    found = [
        (begin + slot, zone, slot)
        for zone, times in enumerate(outages)
        for begin, _ in times
        for slot in range(slots)
    ]
    for zone in range(len(outages)):
        for slot in range(slots):
            now = 0.0
            for key in range(_MOST_TRIES if hazard > 0 else 0):
                now += draws.exponential(HOUR / hazard, zone, slot, key)
                if now >= until:
                    break
                found.append((now, zone, slot))
    return tuple(sorted(found))


def _arrivals(regime: Regime, draws: Draws, traces: Traces | None) -> list[float]:
    arrivals = regime.arrivals
    wanted = draws.between(*arrivals.workflows_per_day, 0)
    begin, end = (hour * HOUR for hour in arrivals.active_hours)
    if arrivals.source == "poisson":
        return _sessions(draws, begin, end, wanted, 1.0, 0.0, 0.0)
    if arrivals.source == "sessions":
        mean = arrivals.session_workflows
        return _sessions(draws, begin, end, wanted, mean, arrivals.gap_seconds, arrivals.gap_sigma)
    assert traces is not None
    count = max(1, min(round(wanted), len(traces.gaps)))
    first = draws.integer(0, len(traces.gaps) - count, 1)
    gaps = traces.gaps[first : first + count]
    scale = (end - begin) / max(sum(gaps), 1e-9)
    now, found = begin, []
    for gap in gaps:
        found.append(now)
        now += gap * scale
    return found


def _sessions(
    draws: Draws, begin: float, end: float, wanted: float, mean: float, gap: float, sigma: float
) -> list[float]:
    """Poisson sessions with a geometric number of workflows each."""
    now, found = begin, []
    for session in range(_MOST_TRIES):
        now += draws.exponential((end - begin) * mean / wanted, session, 1)
        if now >= end:
            break
        at = now
        for member in range(_MOST_TRIES):
            found.append(at)
            if draws.uniform(session, member, 2) < 1 / mean:
                break
            at += draws.log_normal(gap, sigma, session, member, 3)
    return sorted(at for at in found if at < DAY - HOUR) or [begin]


def _workflows(
    regime: Regime, draws: Draws, traces: Traces | None, cloud: Cloud
) -> tuple[Workflow, ...]:
    shares = {name: share for name, share in regime.mix.items() if share > 0}
    found: list[Workflow] = []
    number = 0
    for index, arrival in enumerate(_arrivals(regime, draws.stream("arrivals"), traces)):
        own = draws.stream(f"workflow {index}")
        shape = SHAPES[_chosen(shares, own.uniform(0))](own.stream("shape"), traces)
        found.append(workflow_of(regime, own, shape, index, number, arrival, cloud))
        number += len(shape.steps)
    return tuple(found)


def _chosen(shares: Mapping[Shape, float], uniform: float) -> Shape:
    """A name by its share."""
    left = uniform * sum(shares.values())
    names = list(shares)
    for name in names:
        left -= shares[name]
        if left < 0:
            return name
    return names[-1]
