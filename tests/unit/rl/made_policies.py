"""Policy files made by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from rl.features import CONTEXT
from rl.greedy import GreedyParameters
from rl.policy_file import INPUTS, Guard, PolicyFile

PARAMETERS = GreedyParameters(
    idle_seconds=109.7,
    wait_weight=0.8836,
    miss_weight=0.883,
    risk=0.3458,
    tail_seconds=89.42,
    shared=0.1415,
    hazard_weight=0.817,
    crowding=1.55,
    optimism=0.9172,
    scarcity=0.5717,
    prewarm=0.4652,
    slowdown=1.074,
)
"""Of the base: what the shipped ones are must not matter to a test."""


def wide_guard() -> Guard:
    """Nothing is beyond it."""
    width = len(CONTEXT)
    return Guard(
        low=np.full(INPUTS, -100.0, dtype=np.float32),
        high=np.full(INPUTS, 100.0, dtype=np.float32),
        mean=np.zeros(width, dtype=np.float32),
        precision=np.eye(width, dtype=np.float32),
        limit=1e9,
    )


def made_policy(seed: int | None = None, **changes: Any) -> PolicyFile:
    """A policy that adds nothing to the scores, or, with a seed, what random weights make."""
    widths = (INPUTS, 8, 8, 1)
    random = np.random.default_rng(seed)
    layers = []
    for inputs, outputs in pairwise(widths):
        weight = random.normal(0.0, 0.3, (inputs, outputs)).astype(np.float32)
        bias = random.normal(0.0, 0.3, outputs).astype(np.float32)
        layers.append((weight, bias))
    if seed is None:
        layers[-1] = (np.zeros((8, 1), dtype=np.float32), np.zeros(1, dtype=np.float32))
    policy = PolicyFile(
        layers=tuple(layers),
        guard=wide_guard(),
        tau=0.02,
        margin=0.0,
        reach=0.15,
        parameters=PARAMETERS,
        training={"seed": seed},
    )
    return replace(policy, **changes)
