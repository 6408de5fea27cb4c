"""Randomness as a pure function of where training is, so that none of its state is ever saved.

Each micro-batch seeds torch's generators from (seed, step, shard, micro-batch, purpose). A run that
is killed anywhere draws the same numbers when the step is done again: there is no state that could
be saved too early, too late or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SEED_BITS = 63


def seed_for(seed: int, step: int, shard: int, micro_batch: int, purpose: str) -> int:
    """A seed in [0, 2**63): the first bits of a SHA-256 of the arguments.

    It is the same on every machine and in every release; a test holds values of it. torch's CPU
    generator (a Mersenne twister) reads the lower 32 bits only, so two of a run's micro-batches may
    share a stream by chance. That costs nothing.

    Args:
        seed: Of the run.
        step: Optimizer step, counted from the run's beginning.
        shard: Logical shard of the global batch, which is not the worker that computes it.
        micro_batch: Within the shard.
        purpose: What it is for, such as "dropout".
    """
    place = json.dumps([int(seed), int(step), int(shard), int(micro_batch), purpose])
    digest = hashlib.sha256(place.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


@contextmanager
def seeded(
    seed: int,
    step: int,
    shard: int,
    micro_batch: int,
    purpose: str = "dropout",
    device: torch.device | str = "cpu",
) -> Iterator[int]:
    """Seed torch's default generators for one micro-batch.

    Nothing is restored afterwards. The generators get another seed of the same place instead, so
    that what is drawn between two micro-batches does not depend on what was drawn before, either.

    Args:
        seed: Of the run.
        step: Optimizer step.
        shard: Logical shard of the global batch.
        micro_batch: Within the shard.
        purpose: What it is for.
        device: Where the model is; its generator is seeded, and the CPU's always.

    Yields:
        The seed.
    """
    value = seed_for(seed, step, shard, micro_batch, purpose)
    kind = torch.device(device).type
    _seed(value, kind)
    try:
        yield value
    finally:
        _seed(seed_for(seed, step, shard, micro_batch, f"after {purpose}"), kind)


def generator_state(device: torch.device) -> tuple[torch.Tensor, ...]:
    """Where torch's default generators stand, that of the device included."""
    states = [torch.default_generator.get_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return tuple(states)


def restore_generator(states: tuple[torch.Tensor, ...], device: torch.device) -> None:
    """Put them back to where they stood, so that the same numbers are drawn again."""
    torch.default_generator.set_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def _seed(value: int, kind: str) -> None:
    # not torch.manual_seed: without CUDA in use it formats a stack trace on every call
    torch.default_generator.manual_seed(value)
    if kind == "cuda":
        torch.cuda.manual_seed_all(value)
    elif kind == "mps":
        torch.mps.manual_seed(value)
