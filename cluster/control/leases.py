"""Leases on workers: "keep so many until then", for work that leaves them idle in between.

Ray counts a node as busy while a task or an actor is on it, a Serve replica too, and removes it
after the idle time. That is right for nearly all work. It is wrong for a program on the head whose
next step needs the workers again: a driver between two phases, a person at a notebook. Such a
program takes a lease and renews it; if it dies, the lease ends by itself.

Leases stand in the key-value store of the head's GCS, which every node of the cluster can reach.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ironcliw.errors import SettingsError

NAMESPACE = b"ironcliw-lease"
LONGEST_SECONDS = 4 * 3600
"""A lease may last so long without being renewed: a forgotten one must not cost a weekend."""
_RPC_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Lease:
    """Workers that somebody wants kept; `until` is aware."""

    name: str
    workers: int
    until: datetime


def hold(gcs: Any, name: str, workers: int, seconds: float, now: datetime) -> Lease:
    """Take or renew a lease.

    Args:
        gcs: A client of the GCS, `ray._raylet.GcsClient`.
        name: Of the holder; a second lease of the name replaces the first.
        workers: How many.
        seconds: For how long from now.
        now: Aware.

    Raises:
        SettingsError: The number or the time is out of range.
        ray.exceptions.RayError: The GCS cannot be reached.
    """
    if workers < 1 or not 0 < seconds <= LONGEST_SECONDS:
        raise SettingsError(
            f"a lease of {workers} workers for {seconds:g} s cannot be had: ask for one or more, "
            f"for at most {LONGEST_SECONDS} s, and renew it"
        )
    lease = Lease(name, workers, now + timedelta(seconds=seconds))
    document = {"workers": workers, "until": lease.until.astimezone(UTC).isoformat()}
    value = json.dumps(document).encode()
    gcs.internal_kv_put(name.encode(), value, True, NAMESPACE, timeout=_RPC_SECONDS)
    return lease


def drop(gcs: Any, name: str) -> None:
    """End a lease; one that is not there is fine."""
    gcs.internal_kv_del(name.encode(), False, NAMESPACE, timeout=_RPC_SECONDS)


def read_leases(gcs: Any) -> list[Lease]:
    """All leases, those that are over too; what cannot be understood is none."""
    keys = gcs.internal_kv_keys(b"", NAMESPACE, timeout=_RPC_SECONDS)
    found: Mapping[bytes, bytes] = gcs.internal_kv_multi_get(keys, NAMESPACE, timeout=_RPC_SECONDS)
    leases = []
    for name, value in sorted(found.items()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            document = json.loads(value)
            until = datetime.fromisoformat(document["until"])
            if until.tzinfo is not None:
                leases.append(Lease(name.decode(), int(document["workers"]), until))
    return leases


def leased(leases: Iterable[Lease], now: datetime) -> int:
    """How many workers are wanted now: holders share them, so it is the most that one wants."""
    return max((lease.workers for lease in leases if lease.until > now), default=0)
