"""A regime from a fit: the shipped shapes of workflows, at a log's pace and on its machines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rl.calibration.fit import Fit
from rl.regime import Regime, regime_of
from rl.work import KINDS, Z95

NAME = "calibrated"


def regime_of_fit(fit: Fit, given: Mapping[str, Mapping[str, Any]] | None = None) -> Regime:
    """The regime whose days are like those of the log.

    What the log cannot tell stays as shipped: the shapes of workflows and their deadlines.

    Args:
        fit: Of the log.
        given: Sections and values that are known better, such as the caps and the head's memory.

    Raises:
        SettingsError: a value that is given is impossible.
    """
    daily, between = fit.arrivals.mean, fit.arrivals.deviation
    spread = 1.0 / math.sqrt(fit.boot.count + 5.0)
    boot = fit.boot.median
    duration = _typical(own.sigma for way in fit.durations.values() for own in way.values())
    memory = _typical(own.sigma for own in fit.memory.values())
    values: dict[str, Any] = {
        "name": NAME,
        "arrivals": {
            "workflows_per_day": _range(daily - between, daily + between, 0.5, 5000.0),
            "session_workflows": max(1.0, min(6.0, daily / 2.0)),
        },
        "spot": {
            "hazard_per_hour": hazard_range(fit),
            "boot_seconds": _range(boot * (1 - spread), boot * (1 + spread), 1.0, 3600.0),
            "boot_sigma": _within(fit.boot.sigma, 0.02, 2.0),
            "slowdown": _slowdown(fit),
        },
        "estimates": {},
    }
    if duration is not None:
        values["estimates"]["duration_sigma"] = _range(0.8 * duration, 1.2 * duration, 0.0, 2.0)
    if memory is not None:
        values["estimates"]["memory_sigma"] = _range(0.8 * memory, 1.2 * memory, 0.0, 1.0)
    for section, own in (given or {}).items():
        values[section] = {**values.get(section, {}), **own}
    return regime_of(values, "the fit of the decision log")


def hazard_range(fit: Fit) -> list[float]:
    """The middle 90 % of what is believed of the hazard, a Gamma distribution.

    By the cube root that is nearly normal (Wilson, Hilferty 1931).
    """
    shape = fit.losses
    found = []
    for z in (-Z95, Z95):
        root = 1.0 - 1.0 / (9.0 * shape) + z / (3.0 * math.sqrt(shape))
        found.append(shape * max(root, 0.05) ** 3 / fit.hours)
    return _range(found[0], found[1], 0.0, 60.0)


def _slowdown(fit: Fit) -> list[float]:
    """Relative to what the simulator takes for a function."""
    usual = fit.slowdown.median / KINDS["function"].slowdown
    width = math.exp(0.5 * fit.slowdown.sigma)
    return _range(usual / width, usual * width, 0.05, 20.0)


def _typical(values: Iterable[float]) -> float | None:
    found = sorted(values)
    return found[len(found) // 2] if found else None


def _within(value: float, low: float, high: float) -> float:
    return round(min(max(value, low), high), 6)


def _range(low: float, high: float, least: float, most: float) -> list[float]:
    return [_within(low, least, most), _within(high, least, most)]
