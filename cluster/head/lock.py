"""Lets the starts and stops of one state directory take turns."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def head_lock(state_dir: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold `head.lock` of a state directory; it is free again when the process ends, however.

    The lock belongs to the open file: taking it twice in one thread waits forever.

    Args:
        state_dir: Created when it does not exist.
        report: Told when somebody else holds the lock and we wait.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # children do not inherit the descriptor, so a head that stays does not keep the lock
    descriptor = os.open(state_dir / "head.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another `ironcliw up` or `down` of {state_dir}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # the file stays: removing it would let two callers hold locks on different files
        yield
    finally:
        os.close(descriptor)
