"""How many threads a batch or a step is worth.

Threads meet at a barrier in every operator: some sixty times a batch of texts, some six hundred
times a step of a decoder. As soon as somebody else wants a core (the ingress itself does, while
requests come in) each barrier waits for that core. For a few hundred tokens of texts two threads
gain a third at best and were measured at twice the time of one: those get one. For a decoder's step
it depends: two threads took 0.7 of one thread's time on idle cores and 6 times it on busy ones. So
that is learned while it runs, for each size of step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_BATCH_TOKENS = 256
"""Batches of texts up to this size are computed by one thread."""

SMALL_STEP_TOKENS = 32
"""Steps of a decoder up to this size begin with one thread, larger ones with all."""

_FIRST_INTERVAL = 32
_LONGEST_INTERVAL = 1024
_TRIAL_STEPS = 2
_WEIGHT = 0.25
_SURPRISE = 2.0
_SURPRISE_INTERVAL = 8


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

    The other is tried now and then; the more often in vain, the more seldom. It is tried at once
    when a step takes far longer than those before: somebody else may have come. Pure: no clock.

    Args:
        most: All threads.
        first: How many to begin with, 1 or all.
    """

    def __init__(self, most: int, first: int = 1) -> None:
        self._most = most
        self._current = first
        self._seconds: dict[int, float] = {}
        self._interval = _FIRST_INTERVAL
        self._steps = 0  # since the last trial
        self._trial = 0  # steps of the trial under way

    def pick(self) -> int:
        """Threads for the next step."""
        return self._other() if self._trial else self._current

    def learn(self, seconds: float) -> None:
        """Take what the step took that `pick` was asked for."""
        if self._most == 1:
            return
        if self._trial:
            # what was known is old, and threads that slept wake up in a trial's first step
            self._seconds[self._other()] = seconds
            self._trial += 1
            if self._trial > _TRIAL_STEPS:
                self._end_trial()
            return
        before = self._seconds.get(self._current, seconds)
        self._seconds[self._current] = before + _WEIGHT * (seconds - before)
        self._steps += 1
        surprised = seconds > _SURPRISE * before and self._steps >= _SURPRISE_INTERVAL
        unknown = self._other() not in self._seconds
        if surprised or unknown or self._steps >= self._interval:
            self._trial = 1

    def _other(self) -> int:
        return self._most if self._current == 1 else 1

    def _end_trial(self) -> None:
        self._steps = self._trial = 0
        other = self._other()
        if self._seconds[other] < self._seconds[self._current]:
            self._current, self._interval = other, _FIRST_INTERVAL
        else:
            self._interval = min(2 * self._interval, _LONGEST_INTERVAL)
