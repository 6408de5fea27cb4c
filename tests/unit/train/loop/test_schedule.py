"""The schedules of transformers, without their state."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import transformers

from train.loop.schedule import LearningRate, warmup_steps

PEAK = 3e-4


def theirs(kind: str, warmup: int, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    make = {
        "cosine": transformers.get_cosine_schedule_with_warmup,
        "linear": transformers.get_linear_schedule_with_warmup,
        "constant": lambda each, warmup, _: transformers.get_constant_schedule_with_warmup(
            each, warmup
        ),
    }[kind]
    schedule = make(optimizer, warmup, steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 10), (3, 10), (1, 1), (10, 10), (12, 10)])
def test_the_rates_are_transformers(
    kind: Literal["cosine", "linear", "constant"], warmup: int, steps: int
) -> None:
    ours = LearningRate(PEAK, steps, warmup, kind)
    found = [ours.at(step) for step in range(steps)]
    assert found == pytest.approx(theirs(kind, warmup, steps), rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(
    ("given", "share", "steps", "expected"),
    [
        (None, 0.03, 100, 3),
        (None, 0.03, 10, 1),
        (None, 0.0, 10, 0),
        (0, 0.5, 10, 0),
        (7, 0.0, 10, 7),
    ],
)
def test_the_warmup(given: int | None, share: float, steps: int, expected: int) -> None:
    assert warmup_steps(given, share, steps) == expected
