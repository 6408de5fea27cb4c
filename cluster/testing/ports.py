"""Ports for servers that a test starts a moment later."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Iterator
from itertools import islice

from ironcliw.errors import ClusterError

# Below 32768 (Linux) and 49152 (macOS), where the system takes ports for connections from: a port
# of those may be somebody's end of a connection by the time that the server is up. Above those
# that heads and their workers have as a default.
_RANGE = range(30_000, 32_768)
_BLOCK = 64
_RUNS = range(21_000, 30_000)
_TRIES = 100

_given: set[int] = set()


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports that nobody has, and that nobody is given but for the asking.

    A process is given one a second time only when it has had all. Each looks in a block of its
    own first, so that tests which run side by side seldom look at the same ones.

    Args:
        count: how many.
        address: of this machine, where they are to be free.

    Raises:
        ClusterError: there are not so many.
    """
    ports = sorted(_candidates(), key=_given.__contains__)
    found = list(islice((port for port in ports if _is_free(address, port)), count))
    if len(found) < count:
        raise ClusterError(
            f"{count} ports are asked for, and {len(found)} from {_RANGE.start} to "
            f"{_RANGE.stop - 1} of {address} are free; see what listens there: `ss -ltn`"
        )
    _given.update(found)
    return found


def free_run(count: int) -> int:
    """The first of so many ports in a row, of which the outer ones are free, for Ray's workers.

    Ray looks at each before it takes it. The run is drawn by chance, so that two heads which start
    at the same time seldom share one.

    Raises:
        ClusterError: none was found.
    """
    for _ in range(_TRIES):
        first = _RUNS.start + secrets.randbelow(len(_RUNS) // count) * count
        if _is_free("127.0.0.1", first) and _is_free("127.0.0.1", first + count - 1):
            return first
    raise ClusterError(
        f"no {count} ports in a row from {_RUNS.start} to {_RUNS.stop - 1} are free; see what "
        "listens there: `ss -ltn`"
    )


def _candidates() -> Iterator[int]:
    blocks = len(_RANGE) // _BLOCK
    first = secrets.randbelow(_BLOCK)
    for block in range(blocks):
        start = _RANGE.start + (os.getpid() + block) % blocks * _BLOCK
        for number in range(_BLOCK):
            yield start + (first + number) % _BLOCK


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True
