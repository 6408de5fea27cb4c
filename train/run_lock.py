"""One job at a time for a run: a second one under its name is refused while the first lives.

In a folder the system keeps the lock (flock) and takes it back when the process dies. A bucket has
nothing like it. There the job that holds a run counts up in a small object, again and again; one
that wants the run looks whether the count moves. A job that was killed, its head with it, is found
out after `LEASE_SECONDS`, by this machine's clock alone.

Not covered: two jobs that begin with one bucket within the same second may both see it free. The
later one's name stays in the object, and the other says so in its log.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ironcliw.errors import CheckpointError, ConflictError
from train.checkpoint.disk import lock, reason
from train.run_files import RunFiles

logger = logging.getLogger(__name__)

LOCK = "lock.json"
LEASE_SECONDS = 120.0
"""So long a holder of a bucket's run is waited for that shows no sign of life."""
BEAT_SECONDS = 20.0
_LOOK_SECONDS = 5.0


@contextlib.contextmanager
def held(files: RunFiles, what: str) -> Iterator[None]:
    """Nobody else has the run while the block runs.

    Args:
        files: Of the run.
        what: It is, for messages, such as "run bot".

    Raises:
        ConflictError: another job has it.
        CheckpointError: its storage cannot be used.
    """
    with _locked(files.folder, what) if files.is_local else Lease(files, what).held():
        yield


@contextlib.contextmanager
def _locked(folder: Path, what: str) -> Iterator[None]:
    file = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written: {reason(error)}") from error
    try:
        try:
            # where a file system has no locks the run goes on without
            lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(what, os.read(handle, 1000)) from None
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(_this_process()).encode())
        # the file stays: if it went, a third job could lock another one of its name
        yield
    finally:
        os.close(handle)


@dataclass
class Lease:
    """A run in a bucket, held by counting.

    Attributes:
        files: Of the run.
        what: It is, for messages.
        wait: Waits so many seconds before the next look; another one in tests.
        beat_seconds: From count to count.
    """

    files: RunFiles
    what: str
    wait: Callable[[float], object] = field(default=time.sleep, repr=False)
    beat_seconds: float = BEAT_SECONDS

    def __post_init__(self) -> None:
        self._mine = {"holder": secrets.token_hex(8), **_this_process()}
        self._count = 0
        self._ended = threading.Event()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Take the run, and give it back when the block ends.

        Raises:
            ConflictError: a job that lives has it.
            CheckpointError: the bucket cannot be used.
        """
        self._wait_for_the_dead()
        self._beat()
        thread = threading.Thread(target=self._live, name="run-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            self._give_back()

    def _wait_for_the_dead(self) -> None:
        first = self.files.read(LOCK)
        if first is None:
            return
        logger.warning(
            "%s was held by %s; it is waited for up to %.0f s, to see whether that lives",
            self.what, _named(first), LEASE_SECONDS,
        )  # fmt: skip
        for _ in range(round(LEASE_SECONDS / _LOOK_SECONDS)):
            self.wait(_LOOK_SECONDS)
            now = self.files.read(LOCK)
            if now is None:
                return
            if now != first:
                raise _in_use(self.what, json.dumps(now).encode())

    def _beat(self) -> None:
        self._count += 1
        self.files.write(LOCK, {**self._mine, "count": self._count})

    def _live(self) -> None:
        while not self._ended.wait(self.beat_seconds):
            try:
                if not self._is_mine():
                    logger.error("another job has taken %s: stop one of the two", self.what)
                    return
                self._beat()
            except CheckpointError as error:
                logger.warning("%s cannot be shown to be alive: %s", self.what, error.message)

    def _is_mine(self) -> bool:
        found = self.files.read(LOCK)
        return found is None or found.get("holder") == self._mine["holder"]

    def _give_back(self) -> None:
        try:
            found = self.files.read(LOCK)
            if found is not None and found.get("holder") == self._mine["holder"]:
                self.files.remove(LOCK)
        except CheckpointError as error:
            logger.warning("%s is not given back: %s", self.what, error.message)


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _named(found: Any) -> str:
    return f"process {found.get('pid')} on {found.get('host')}" if found else "another process"


def _in_use(what: str, told: bytes) -> ConflictError:
    try:
        found = json.loads(told)
    except ValueError:
        found = None  # it is being written just now
    return ConflictError(
        f"{what} is in use by {_named(found)}; wait for its end or stop it, or give this one a "
        "name and a storage of its own",
        code="run_in_use",
    )
