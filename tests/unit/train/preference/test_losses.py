"""Losses against their formulas in float64, and what each must be by its meaning."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.preference.losses import LogProbs, first_loss, preference_loss
from train.preference.options import LOSSES, SMOOTHED, LossName

BETA, SMOOTHING, GAMMA = 0.3, 0.1, 0.5
numbers = st.floats(-60, 0)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > -30 else x


def formula(name: str, pw: float, pl: float, rw: float, rl: float, nw: int, nl: int) -> float:
    d = (pw - rw) - (pl - rl)
    each = (pw - rw) / nw - (pl - rl) / nl
    right, wrong = -log_sigmoid(BETA * d), -log_sigmoid(-BETA * d)
    return {
        "sigmoid": right,
        "cdpo": (1 - SMOOTHING) * right + SMOOTHING * wrong,
        "robust": ((1 - SMOOTHING) * right - SMOOTHING * wrong) / (1 - 2 * SMOOTHING),
        "ipo": (each - 1 / (2 * BETA)) ** 2,
        "hinge": max(0.0, 1 - BETA * d),
        "sigmoid_norm": -log_sigmoid(BETA * each),
        "simpo": -log_sigmoid(BETA * (pw / nw - pl / nl) - GAMMA),
    }[name]


def pair(chosen: float, rejected: float) -> LogProbs:
    return LogProbs(
        torch.tensor([chosen], dtype=torch.float64), torch.tensor([rejected], dtype=torch.float64)
    )


def loss(name: LossName, policy: LogProbs, reference: LogProbs, nw: int, nl: int) -> Any:
    smoothing = SMOOTHING if name in SMOOTHED else 0.0
    return preference_loss(
        name,
        policy,
        reference,
        pair(nw, nl),
        beta=BETA,
        label_smoothing=smoothing,
        gamma=GAMMA,
    )


@pytest.mark.parametrize("name", LOSSES)
@given(values=st.tuples(*[numbers] * 4), nw=st.integers(1, 50), nl=st.integers(1, 50))
def test_formulas(name: LossName, values: tuple[float, ...], nw: int, nl: int) -> None:
    pw, pl, rw, rl = values
    found, _ = loss(name, pair(pw, pl), pair(rw, rl), nw, nl)
    assert float(found) == pytest.approx(formula(name, pw, pl, rw, rl, nw, nl), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "simpo"])
def test_a_model_that_is_its_own_reference(name: LossName) -> None:
    found, rewards = loss(name, pair(-7.0, -9.0), pair(-7.0, -9.0), 3, 5)
    smoothing = SMOOTHING if name in SMOOTHED else 0.0
    wanted = first_loss(name, beta=BETA, label_smoothing=smoothing)
    assert float(found) == pytest.approx(wanted)
    assert (float(rewards.chosen), float(rewards.margins)) == (0, 0)
    if name in ("sigmoid", "cdpo", "robust", "sigmoid_norm"):
        assert float(found) == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", LOSSES)
def test_rewards_are_of_whole_answers(name: LossName) -> None:
    _, rewards = loss(name, pair(-4.0, -9.0), pair(-5.0, -6.0), 2, 3)
    wanted = (-4.0 / 2, -9.0 / 3) if name == "simpo" else (1.0, -3.0)
    assert (float(rewards.chosen), float(rewards.rejected)) == pytest.approx(
        tuple(BETA * each for each in wanted)
    )


def test_simpo_has_no_reference() -> None:
    assert first_loss("simpo", beta=BETA) is None
    without, _ = preference_loss("simpo", pair(-4, -6), None, pair(2, 2), beta=2.0, gamma=0.5)
    assert float(without) == pytest.approx(-log_sigmoid(2.0 * (-2 + 3) - 0.5))


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_margin_is_a_smaller_loss(name: LossName) -> None:
    reference = pair(-8.0, -8.0)
    worse, _ = loss(name, pair(-8.2, -8.0), reference, 4, 4)
    better, rewards = loss(name, pair(-7.9, -8.0), reference, 4, 4)
    assert float(better) < float(worse)
    assert float(rewards.margins) > 0


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name: LossName) -> None:
    policy = [torch.tensor([-3.0, -5.0], dtype=torch.float64, requires_grad=True) for _ in range(2)]
    reference = LogProbs(policy[0].detach() - 0.3, policy[1].detach() + 0.2)
    lengths = LogProbs(torch.tensor([3.0, 2.0]).double(), torch.tensor([1.0, 4.0]).double())
    smoothing = SMOOTHING if name in SMOOTHED else 0.0

    def made(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return preference_loss(
            name,
            LogProbs(chosen, rejected),
            reference,
            lengths,
            beta=BETA,
            label_smoothing=smoothing,
            gamma=GAMMA,
        )[0]

    assert torch.autograd.gradcheck(made, policy)  # type: ignore[no-untyped-call]


def test_far_margins_stay_finite() -> None:
    found, _ = loss("sigmoid", pair(-1e6, 0.0), pair(0.0, -1e6), 1, 1)
    assert float(found) == pytest.approx(BETA * 2e6)
