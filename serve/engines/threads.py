"""How many threads a batch or a step is worth.

Threads meet at a barrier in every operator: some sixty times a batch of texts, some six hundred
times a step of a decoder. As soon as somebody else wants a core (the ingress itself does, while
requests come in) each barrier waits for that core. For a few hundred tokens of texts two threads
gain a third at best and were measured at twice the time of one: those get one. For a decoder's step
it depends: two threads took 0.7 of one thread's time on idle cores and 6 times it on busy ones. So
that is learned while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_BATCH_TOKENS = 256
"""Batches of texts up to this size are computed by one thread."""

SMALL_STEP_TOKENS = 32
"""Steps of running streams, for which the number of threads is learned."""

_FIRST_INTERVAL = 32
_LONGEST_INTERVAL = 1024
_TRIAL_STEPS = 2
_WEIGHT = 0.25


@contextmanager
def threads_for(device: torch.device, tokens: int) -> Iterator[None]:
    """Give PyTorch one thread for a small batch, what it had for a larger one.

    It is put back afterwards. Threads that have used PyTorch before keep the number they have; one
    that first uses it meanwhile starts with one thread and keeps that, so a process that computes
    in several threads must have used PyTorch in each of them first.
    """
    if device.type != "cpu" or tokens > SMALL_BATCH_TOKENS:
        yield
        return
    with number_of_threads(1):
        yield


@contextmanager
def number_of_threads(count: int) -> Iterator[None]:
    """Give PyTorch so many threads for the length of the block."""
    usual = torch.get_num_threads()
    if count == usual:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


class ThreadChoice:
    """One thread or all: whichever did the last steps faster.

    The other is tried now and then; the more often in vain, the more seldom. Pure: no clock.

    Args:
        most: All threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seconds: dict[int, float] = {}
        self._current = 1
        self._interval = _FIRST_INTERVAL
        self._left = 0  # steps until the next trial; below zero: within one

    def pick(self) -> int:
        """Threads for the next step."""
        return self._current if self._left >= 0 else self._other()

    def learn(self, seconds: float) -> None:
        """Take what the step took that `pick` was asked for."""
        if self._most == 1:
            return
        used = self.pick()
        if self._left >= 0:
            before = self._seconds.get(used, seconds)
            self._seconds[used] = before + _WEIGHT * (seconds - before)
        else:  # what was known is old, and threads that slept wake up in a trial's first step
            self._seconds[used] = seconds
        self._left -= 1
        if self._left < -_TRIAL_STEPS:
            self._end_trial()

    def _other(self) -> int:
        return self._most if self._current == 1 else 1

    def _end_trial(self) -> None:
        other = self._other()
        if self._seconds[other] < self._seconds[self._current]:
            self._current, self._interval = other, _FIRST_INTERVAL
        else:
            self._interval = min(2 * self._interval, _LONGEST_INTERVAL)
        self._left = self._interval
