"""The order of the rows in an epoch: a pure function of seed, epoch and their number.

It is made of Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11),
a counter-based generator whose raw numbers NumPy keeps from version to version (NEP 19), which it
does not promise of its `permutation`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ironcliw.errors import SettingsError

_WORD = 1 << 64


def order(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    """Row numbers in the order in which the epoch visits them, int64 [rows].

    Args:
        seed: Of the run; 0 to 2**64 - 1.
        epoch: Counted from 0.
        rows: How many there are.

    Raises:
        SettingsError: the seed is out of range.
    """
    if not 0 <= seed < _WORD:
        raise SettingsError(f"seed is {seed}; give a number from 0 to 2**64 - 1")
    assert 0 <= epoch < _WORD
    key = np.array([seed, epoch], np.uint64)
    keys = np.random.Philox(key=key).random_raw(rows)
    # stable: two rows of one key, once in 2**64 / rows**2 epochs, keep the order of the file
    return np.argsort(np.asarray(keys, np.uint64), kind="stable").astype(np.int64)
