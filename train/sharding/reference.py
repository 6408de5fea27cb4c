"""Kept log-probabilities of a reference in pieces: all workers compute, the first one writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from train.loop.reduce import Group
from train.preference.reference_cache import ReferenceCache
from train.sharding.signals import Signals


class InStep:
    """The workers as a group of one, each of which does all there is to do, in step with the
    others.

    Args:
        group: The workers.
    """

    rank = 0
    size = 1

    def __init__(self, group: Group) -> None:
        self._group = group

    def gather(self, part: torch.Tensor) -> Sequence[torch.Tensor]:
        return [part]

    def numbers(self, mine: Sequence[float]) -> list[list[float]]:
        return [list(mine)]

    def agree(self, step: int) -> None:
        self._group.agree(step)


class SharedReferenceCache(ReferenceCache):
    """A cache of which all workers think alike.

    Args:
        uri: Of the folder.
        key: As `ReferenceCache`.
        signals: Between the workers.
        is_first: Whether this worker writes.
        allow_inexact: As `ReferenceCache`.
    """

    def __init__(
        self,
        uri: str,
        key: Mapping[str, str | int],
        signals: Signals,
        *,
        is_first: bool,
        allow_inexact: bool = False,
    ) -> None:
        super().__init__(uri, key, allow_inexact=allow_inexact)
        self._signals, self._is_first = signals, is_first

    def has(self, number: int, rows: int) -> bool:
        """Whether every worker sees the part."""
        return not self._signals.any(not super().has(number, rows))

    def write(self, number: int, values: npt.NDArray[np.float32]) -> None:
        """Keep a part, on the first worker."""
        if self._is_first:
            super().write(number, values)
