"""Random numbers that belong to a name and a time, not to how many were drawn before.

A policy that does one thing differently must meet the same day otherwise: the same steps, the same
user, the same machines taken back at the same times. So no draw comes from a sequence. Each is a
hash of the day's seed, a stream and keys (a step's number, a zone, a slot of time), and two
policies that look at the same thing see the same number (common random numbers).

The hash is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, OOPSLA), applied once a key.
"""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_NORMAL = NormalDist()


def _mixed(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def seed_of(*names: str | int) -> int:
    """A seed of 64 bits from names, the same on every machine and in every release of Python."""
    text = "\0".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class Draws:
    """The draws of one stream: `Draws(seed_of(7, "boot")).uniform(zone, slot)`."""

    __slots__ = ("_seed",)

    def __init__(self, seed: int) -> None:
        self._seed = seed & _MASK

    def stream(self, name: str) -> Draws:
        """A stream of its own, independent of every other name's."""
        return Draws(seed_of(self._seed, name))

    def uniform(self, *keys: int) -> float:
        """In the open interval (0, 1); the same for the same keys."""
        value = self._seed
        for key in keys:
            value = _mixed(value ^ (key & _MASK))
        return ((_mixed(value) >> 11) + 0.5) / (1 << 53)

    def between(self, low: float, high: float, *keys: int) -> float:
        """Uniform between two bounds."""
        return low + (high - low) * self.uniform(*keys)

    def log_between(self, low: float, high: float, *keys: int) -> float:
        """Uniform in the logarithm, for a rate whose order of magnitude is unknown."""
        return low * math.exp(math.log(high / low) * self.uniform(*keys))

    def normal(self, *keys: int) -> float:
        """Standard normal."""
        return _NORMAL.inv_cdf(self.uniform(*keys))

    def log_normal(self, median: float, sigma: float, *keys: int) -> float:
        """Log-normal by its median and the deviation of its logarithm."""
        return median * math.exp(sigma * self.normal(*keys)) if sigma else median

    def exponential(self, mean: float, *keys: int) -> float:
        """Exponential by its mean."""
        return -mean * math.log(self.uniform(*keys))

    def integer(self, low: int, high: int, *keys: int) -> int:
        """From low to high, both included."""
        return low + int((high - low + 1) * self.uniform(*keys))
