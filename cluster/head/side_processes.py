"""Processes beside a head that must run as long as it does: started, adopted, started again."""

from __future__ import annotations

import contextlib
import logging
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.head.restarts import Restarts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """How a process is started.

    Attributes:
        name: Names its log, too.
        command: Program and arguments.
        environment: All of it.
        given: Written to its standard input.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    given: bytes = b""


class SideProcess:
    """One of them.

    Args:
        program: How it is started.
        logs: Folder for what it prints.
        clock: Monotonic seconds.
        running: A process of this program that runs already; else it is started by `tend`.
    """

    def __init__(
        self,
        program: Program,
        logs: Path,
        clock: Callable[[], float],
        running: psutil.Process | None = None,
    ) -> None:
        self.program = program
        self._log = logs / f"{program.name}.log"
        self._clock = clock
        self._restarts = Restarts()
        self._process = running
        self._since = self._due = clock()

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return self._process.pid if self._process is not None else None

    def tend(self) -> None:
        """Look after it: note its end, start it when its pause is over."""
        now = self._clock()
        if self._process is not None and not _runs(self._process):
            self._process = None
            pause = self._restarts.pause(now - self._since)
            self._due = now + pause
            logger.warning(
                "%s ended; it is started again in %g s, its log is %s",
                self.program.name,
                pause,
                self._log,
            )
        if self._process is None and now >= self._due:
            self._start(now)

    def _start(self, now: float) -> None:
        with self._log.open("ab") as output:
            try:
                process = psutil.Popen(
                    list(self.program.command),
                    env=dict(self.program.environment),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:
                self._due = now + self._restarts.pause(0.0)
                logger.error("%s cannot be started: %s", self.program.name, error)
                return
        # it may have ended without reading
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(self.program.given)
            process.stdin.close()
        self._process, self._since = process, now


def _runs(process: psutil.Process) -> bool:
    if isinstance(process, psutil.Popen):
        return process.poll() is None
    # in a container nobody may collect an orphan that ended
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
