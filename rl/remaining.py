"""How long a step that has run for a while will still take.

A step's time is believed log-normal. The longer it has run beyond its median, the longer it will
still take: its mean residual life, which is what is expected, not what is left of the median.
"""

from __future__ import annotations

import math

LEAST_SHARE = 0.1  # of the belief, of a step whose time is thought to be known
_MOST_SIGMA = 1.0  # a wider belief says only that nothing is known, and has a mean far off
_TINY = 1e-9  # a tail beyond which the quotient is taken from its limit
_ROOT = math.sqrt(2.0)


def seconds_left(median: float, elapsed: float, sigma: float) -> float:
    """Expected seconds left of work that has gone on for some time.

    Args:
        median: That it is believed to take as a whole.
        elapsed: That it has taken until now.
        sigma: Deviation of the belief's logarithm; 0 where it is known.
    """
    sigma = min(sigma, _MOST_SIGMA)
    if sigma <= 0.01 or median <= 0:
        return max(median - elapsed, LEAST_SHARE * median)
    mean = median * math.exp(0.5 * sigma * sigma)
    if elapsed <= 0:
        return mean
    z = math.log(elapsed / median) / sigma
    beyond = 0.5 * math.erfc(z / _ROOT)  # chance to take longer than it has
    if beyond < _TINY:
        return elapsed * sigma / z
    return max(mean * 0.5 * math.erfc((z - sigma) / _ROOT) / beyond - elapsed, 0.0)
