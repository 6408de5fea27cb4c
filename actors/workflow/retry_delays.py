"""How long a failed step waits for its next attempt: the same in every replay."""

from __future__ import annotations

import hashlib

from actors.workflow.graph import RetryPolicy
from actors.workflow.limits import Limits


def retry_delay(policy: RetryPolicy, failures: int, seed: str) -> float:
    """Exponential back-off in seconds, of which the upper half is spread by a hash of the seed.

    Many items that fail together thus come back one after the other, without a random number that
    would have to be stored ("equal jitter", AWS Architecture Blog, "Exponential Backoff And
    Jitter", 2015).

    Args:
        policy: Of the step.
        failures: Counted attempts that have failed, from 1.
        seed: Names the attempt.
    """
    full = min(policy.max_seconds, policy.backoff_seconds * policy.factor ** min(failures - 1, 60))
    return full * (0.5 + 0.5 * _share(seed))


def delay_after_loss(limits: Limits, losses: int) -> float:
    """Seconds; none after the first loss, which most likely was the machine's own.

    Args:
        limits: Its `losses_factor` is the second wait.
        losses: From 1.
    """
    return 0.0 if losses == 1 else limits.losses_factor * 2.0 ** (losses - 2)


def _share(seed: str) -> float:
    """From 0 to 1, evenly spread over the seeds."""
    digest = hashlib.blake2b(seed.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
