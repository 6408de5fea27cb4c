"""The points of a space that are tried: the same ones for the same configuration, always."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from train.sweep.config import Point, Range, SweepConfig

_TRIES = 20
"""Draws for one wanted point, before a space counts as exhausted."""
_DIGITS = 4


def points(config: SweepConfig) -> list[Point]:
    """Every combination, or as many different draws as are wanted and there are.

    Numbers are drawn by Ray Tune's domains, and rounded to four digits: they stand in tables.
    """
    keys = list(config.space)
    if not config.samples:
        ranges = (config.space[key].choice or () for key in keys)
        return _different(
            [dict(zip(keys, each, strict=True)) for each in itertools.product(*ranges)]
        )
    import numpy as np

    random = np.random.default_rng(config.seed)
    drawn: list[Point] = []
    for _ in range(_TRIES * config.samples):
        drawn = _different([*drawn, {key: _draw(config.space[key], random) for key in keys}])
        if len(drawn) == config.samples:
            break
    return drawn


def trial_name(point: Mapping[str, Any]) -> str:
    """A name that the same point always has, e.g. `lora_rank-8_learning_rate-0.0002-3f2a9c`."""
    text = json.dumps(dict(sorted(point.items())))
    shown = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in point.items())
    kept = "".join(each if each.isalnum() or each in "._-" else "-" for each in shown)
    return f"{kept[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _different(found: list[Point]) -> list[Point]:
    return list({json.dumps(point, sort_keys=True): point for point in found}.values())


def _draw(given: Range, random: Any) -> Any:
    from ray import tune

    if given.choice is not None:
        return given.choice[int(random.integers(len(given.choice)))]
    if given.uniform is not None:
        value = tune.uniform(*given.uniform).sample(random_state=random)
    else:
        assert given.log_uniform is not None
        value = tune.loguniform(*given.log_uniform).sample(random_state=random)
    return float(f"{value:.{_DIGITS}g}")
