"""How many threads a batch is worth.

Two threads meet at a barrier in every operator: some sixty times a batch. For a few hundred tokens
they gain a third at best, and as soon as somebody else wants a core (the ingress itself does, while
requests come in) each barrier waits for that core: measured at twice the time of one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_BATCH_TOKENS = 256
"""Batches up to this size are computed by one thread."""


SMALL_STEP_TOKENS = 32
"""Steps of running streams: reading the weights takes most of the time, and one core alone reads
nearly as fast as all. Prompts of more tokens are worth every core."""


@contextmanager
def threads_for(
    device: torch.device, tokens: int, small: int = SMALL_BATCH_TOKENS
) -> Iterator[None]:
    """Give PyTorch one thread for a batch of up to `small` tokens, what it had for a larger one.

    It is put back afterwards. Threads that have used PyTorch before keep the number they have; one
    that first uses it meanwhile starts with one thread and keeps that, so a process that computes
    in several threads must have used PyTorch in each of them first.
    """
    usual = torch.get_num_threads()
    if device.type != "cpu" or tokens > small or usual == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
