"""The draw of one row of logits in numpy: what `native_ops.sampling` gives, step by step.

The weight of a logit x is exp((x - largest) / temperature), made of float32 operations that every
IEEE machine rounds alike (`weights`), so that a row and a number give the same token wherever it is
drawn; weights below exp(-87) are 0. Sums of weights are float64. The draw looks `number` times the
sum up in the cumulative sums of what is left, listed from likely to unlikely, ties by rising id;
with neither top_k nor top_p, listed by rising id, which needs no sorting.

Shapes: V vocabulary, C candidates left after top_k and top_p.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

GREEDY_BELOW = 1e-5
"""Temperatures below this one divide float32 logits beyond their range; vLLM draws the same line"""

_HEADS = (512, 8192)
"""How many likely tokens top_p looks at before it sorts all: they nearly always hold its mass, and
partitioning costs a third of sorting."""

_TAYLOR = tuple(np.float32(1 / divisor) for divisor in (720, 120, 24, 6, 2, 1, 1))


def weights(values: Floats, largest: np.float32, temperature: float) -> Floats:
    """Probabilities but for a common factor; the bits are those of the compiled kernel."""
    below = np.subtract(values, largest, dtype=np.float32)
    if np.float32(temperature) != 1:
        below /= np.float32(temperature)
    bounded = np.maximum(below, np.float32(-87))
    power = np.rint(bounded * np.float32(1.44269504))
    rest = bounded - power * np.float32(0.693359375)
    rest += power * np.float32(2.12194440e-4)
    result = np.full_like(rest, _TAYLOR[0])
    for coefficient in _TAYLOR[1:]:
        result *= rest
        result += coefficient
    result = np.ldexp(result, power.astype(np.int32))
    result[below < -87] = 0
    return result


def largest_first(row: Floats, count: int) -> Floats:
    """The `count` largest values of a row [V], largest first."""
    part = np.partition(row, len(row) - count)[len(row) - count :] if count < len(row) else row
    return np.sort(part)[::-1]


def likeliest(row: Floats, count: int) -> Ids:
    """Ids of the `count` largest values of a row [V], largest first, ties by rising id."""
    if count == 0:
        return np.zeros(0, np.int64)
    threshold = largest_first(row, min(count, len(row)))[-1]
    ids = np.flatnonzero(row >= threshold)
    return ids[np.argsort(-row[ids], kind="stable")][:count]


def log_normaliser(row: Floats) -> float:
    """Log of the sum of exp(logits) of a row [V]."""
    largest = row.max()
    return float(largest) + float(np.log(weights(row, largest, 1).sum(dtype=np.float64)))


def draw_number(row: Floats, number: float, temperature: float, top_k: int, top_p: float) -> int:
    """The token that a number in [0, 1) draws from a row [V]."""
    if temperature < GREEDY_BELOW:
        return int(row.argmax())
    top_k = top_k if top_k < len(row) else 0
    if not top_k and top_p >= 1:
        return _find(_sums(row, row.max(), temperature), number)
    values, sums = _candidates(row, top_k, top_p, temperature)
    rank = _find(sums, number)
    # only the values are sorted: equal ones stand in the order of their ids
    first = int(np.argmax(values == values[rank]))
    return int(np.flatnonzero(row == values[rank])[rank - first])


def penalise(
    row: Floats,
    penalties: npt.NDArray[np.float64],
    history: npt.NDArray[np.int32],
    answer: npt.NDArray[np.int32],
    bias: tuple[npt.NDArray[np.int32], Floats],
) -> Floats:
    """A copy of a row [V] with bias, then repetition, presence and frequency penalties."""
    repetition, presence, frequency = penalties.tolist()
    row = row.copy()
    np.add.at(row, bias[0], bias[1])
    if repetition != 1:
        values = row[history]  # a token that is there twice is read before it is written
        penalty = np.float32(repetition)
        row[history] = np.where(values < 0, values * penalty, values / penalty)
    if presence or frequency:
        tokens, counts = np.unique(answer, return_counts=True)
        row[tokens] -= (frequency * counts + presence).astype(np.float32)
    return row


def _candidates(row: Floats, top_k: int, top_p: float, temperature: float) -> tuple[Floats, Sums]:
    """The logits that are left, largest first, and their cumulative weights, both [C]."""
    if top_k:
        values = largest_first(row, top_k)
        sums = _sums(values, values[0], temperature)
        share = float(sums[-1]) * top_p
    else:
        share = float(weights(row, row.max(), temperature).sum(dtype=np.float64)) * top_p
        for count in (*(head for head in _HEADS if head < len(row)), len(row)):
            values = largest_first(row, count)
            sums = _sums(values, values[0], temperature)
            if sums[-1] >= share:
                break
    # a token is kept while those before it hold less, as transformers' TopPLogitsWarper does
    kept = min(int(np.searchsorted(sums, share, side="left")) + 1, len(sums))
    return values[:kept], sums[:kept]


def _sums(values: Floats, largest: np.float32, temperature: float) -> Sums:
    return np.cumsum(weights(values, largest, temperature), dtype=np.float64)


def _find(sums: Sums, number: float) -> int:
    """The first index at which the cumulative weights pass this share of them."""
    index = int(np.searchsorted(sums, number * sums[-1], side="right"))
    # the product can round up to the sum of all: then the last token with any weight
    return index if index < len(sums) else int(np.searchsorted(sums, sums[-1], side="left"))
