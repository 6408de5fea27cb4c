"""CMA-ES: a search without gradients that learns which parameters go together.

The standard (mu/mu_w, lambda) strategy with its default constants: N. Hansen, "The CMA Evolution
Strategy: A Tutorial", 2016 (arXiv 1604.00772), equations 6 to 43. Sixty lines, so that the search
needs numpy alone; no boundaries, no restarts.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Cma:
    """Minimises; points come in generations, whose scores are told all at once.

    Args:
        start: Where the search begins, of shape (N,).
        sigma: How far it looks at first.
        population: Points a generation.
        seed: Of the draws.

    Attributes:
        mean: The centre of the search, of shape (N,): its answer where scores are noisy.
    """

    def __init__(self, start: Array, sigma: float, population: int, seed: int) -> None:
        self.mean = np.array(start, dtype=np.float64)
        self.sigma = sigma
        self._random = np.random.default_rng(seed)
        size, self._population = len(self.mean), population
        self._parents = population // 2
        weights = math.log((population + 1) / 2) - np.log(np.arange(1, self._parents + 1))
        self._weights = weights / weights.sum()
        mass = self._mass = 1.0 / float((self._weights**2).sum())
        self._decay_path = (4 + mass / size) / (size + 4 + 2 * mass / size)
        self._decay_step = (mass + 2) / (size + mass + 5)
        self._rank_one = 2 / ((size + 1.3) ** 2 + mass)
        limit = 2 * (mass - 2 + 1 / mass) / ((size + 2) ** 2 + mass)
        self._rank_mu = min(1 - self._rank_one, limit)
        excess = max(0.0, math.sqrt((mass - 1) / (size + 1)) - 1)
        self._damping = 1 + 2 * excess + self._decay_step
        self._expected = math.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))
        self._covariance = np.eye(size)
        self._path, self._step_path = np.zeros(size), np.zeros(size)
        self._generation = 0

    def ask(self) -> Array:
        """Points to try, of shape (population, N)."""
        axes, lengths = self._axes()
        drawn = self._random.standard_normal((self._population, len(self.mean)))
        return self.mean + self.sigma * (drawn * lengths) @ axes.T

    def tell(self, points: Array, scores: Array) -> None:
        """What became of them.

        Args:
            points: As asked, of shape (population, N).
            scores: Of each, the lower the better.
        """
        self._generation += 1
        best = points[np.argsort(scores, kind="stable")[: self._parents]]
        moves = (best - self.mean) / self.sigma
        move = self._weights @ moves
        self.mean = self.mean + self.sigma * move
        axes, lengths = self._axes()
        whitened = axes @ ((axes.T @ move) / lengths)
        decay = self._decay_step
        self._step_path = (1 - decay) * self._step_path
        self._step_path += math.sqrt(decay * (2 - decay) * self._mass) * whitened
        length = float(np.linalg.norm(self._step_path))
        known = math.sqrt(1 - (1 - decay) ** (2 * self._generation))
        is_slow = length / known < (1.4 + 2 / (len(self.mean) + 1)) * self._expected
        self._adapt(moves, move, is_slow)
        self.sigma *= math.exp(decay / self._damping * (length / self._expected - 1))

    def _adapt(self, moves: Array, move: Array, is_slow: bool) -> None:
        decay, one, mu = self._decay_path, self._rank_one, self._rank_mu
        self._path = (1 - decay) * self._path
        if is_slow:
            self._path += math.sqrt(decay * (2 - decay) * self._mass) * move
        lost = 0.0 if is_slow else one * decay * (2 - decay)
        kept = (1 - one - mu + lost) * self._covariance
        ranked = (moves.T * self._weights) @ moves
        self._covariance = kept + one * np.outer(self._path, self._path) + mu * ranked

    def _axes(self) -> tuple[Array, Array]:
        """(axes of shape (N, N), their lengths) of the covariance."""
        squares, axes = np.linalg.eigh((self._covariance + self._covariance.T) / 2)
        return axes, np.sqrt(np.maximum(squares, 1e-20))
