"""The minimiser, the regression and the calibration that heads are made with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from serve.decisions.calibration import (
    FEW_SHOT,
    scale_features,
    scope_features,
    sigmoid,
    softmax,
)
from serve.decisions.head_logistic import fit_logistic, minimise

Floats = npt.NDArray[np.floating]


def test_the_minimum_of_a_curved_valley_is_found() -> None:
    def rosenbrock(point: Floats) -> tuple[float, Floats]:
        x, y = point
        gradient = np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])
        return float((1 - x) ** 2 + 100 * (y - x * x) ** 2), gradient

    found = minimise(rosenbrock, np.array([-1.2, 1.0]), 100)
    np.testing.assert_allclose(found, [1.0, 1.0], atol=1e-5)


def test_the_value_never_rises() -> None:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(30, 10))
    curvature = matrix.T @ matrix

    def bowl(point: Floats) -> tuple[float, Floats]:
        return float(point @ curvature @ point / 2), curvature @ point

    values = [bowl(minimise(bowl, np.ones(10), steps))[0] for steps in range(12)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 1e-3 * values[0]


def test_it_stays_at_a_minimum() -> None:
    def bowl(point: Floats) -> tuple[float, Floats]:
        return float(point @ point), 2 * point

    np.testing.assert_array_equal(minimise(bowl, np.zeros(3), 5), np.zeros(3))


@pytest.mark.parametrize("penalty", [0.1, 1.0])
def test_the_gradient_of_the_regression_vanishes(penalty: float) -> None:
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(40, 5)).astype(np.float32)
    targets = generator.integers(0, 3, 40).astype(np.intp)
    weights = generator.uniform(0.5, 2.0, 40)
    linear = fit_logistic(vectors, targets, weights, 3, penalty=penalty, iterations=200)
    logits = (vectors @ linear.weights + linear.bias).astype(np.float64)
    errors = (softmax(logits) - np.eye(3)[targets]) * weights[:, None]
    assert np.abs(errors.sum(axis=0)).max() < 1e-2
    centred = vectors - vectors.mean(axis=0)
    assert np.abs(centred.T @ errors + penalty * linear.weights).max() < 1e-2
    assert np.abs(linear.weights).max() > 0.1


def test_softmax_and_sigmoid_do_not_overflow() -> None:
    assert softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])).tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert [sigmoid(value) for value in (-1e4, 0.0, 1e4)] == [0.0, 0.5, 1.0]


def test_a_calibration_weighs_what_it_was_fitted_to() -> None:
    generator = np.random.default_rng(2)
    logits, cosines = generator.normal(size=(4, 7)), generator.uniform(-1, 1, (4, 7))
    scale = np.exp(scale_features(cosines, 3.5) @ np.array(FEW_SHOT.scale))
    np.testing.assert_allclose(
        FEW_SHOT.probabilities(logits, cosines, 3.5), softmax(scale[:, None] * logits)
    )
    values = scope_features(cosines, 3.5) @ np.array(FEW_SHOT.in_scope)
    expected = [sigmoid(float(value)) for value in values]
    np.testing.assert_allclose(FEW_SHOT.scope(cosines, 3.5), expected)
