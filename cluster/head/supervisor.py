"""Keeps alive what runs beside a head with workers; run as `python -m cluster.head.supervisor`.

`ray start` leaves its processes alone once they run. Two of them a cluster cannot be without, and
can lose without a restart of the head: the control service (GCS), which finds its state on disk
again, and the autoscaler's monitor. Both are adopted: learned by their command lines, and started
again with the same. The modules of `cluster.side_modules`, and on macOS `caffeinate`, are started
here.

The process carries the head's tag as all others do; `down` ends it first. Its parent hands it the
settings, secrets included, on standard input, and it hands them on to the modules.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from cluster.head.processes import MONITOR, tagged_processes
from cluster.head.ray_environment import SESSION_VARIABLE
from cluster.head.side_processes import Program, SideProcess
from ironcliw import logs
from ironcliw.settings import Settings, process_environment

logger = logging.getLogger(__name__)

_PERIOD_SECONDS = 0.5
# Parts of the command lines of the processes that are adopted, by the name of their log.
ADOPTED = {
    "gcs_server": "gcs/gcs_server",
    "monitor": MONITOR,
}


def main() -> None:
    """Look after the side processes until SIGTERM."""
    given = sys.stdin.buffer.read()
    settings: Settings = pickle.loads(given)
    logs.configure(settings.log)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    environment = process_environment()
    folder = settings.state_dir / "logs"
    processes = adopt(tagged_processes(environment[SESSION_VARIABLE]), folder, environment)
    for program in own_programs(settings, given, environment, sys.platform, os.getpid()):
        # what an earlier head's process printed is not of interest any more
        (folder / f"{program.name}.log").unlink(missing_ok=True)
        processes.append(SideProcess(program, folder, time.monotonic))
    while not stop.wait(_PERIOD_SECONDS):
        for process in processes:
            process.tend()


def own_programs(
    settings: Settings, given: bytes, environment: dict[str, str], system: str, pid: int
) -> list[Program]:
    """What the supervisor starts itself.

    Args:
        settings: Name the modules.
        given: The settings, pickled.
        environment: Of all of them.
        system: As `sys.platform` says it.
        pid: The supervisor's; with it `caffeinate` ends.
    """
    programs = [
        Program(module, (sys.executable, "-m", module), environment, given)
        for module in settings.cluster.side_modules
    ]
    if system == "darwin":
        # display, idle and system sleep: a Mac that sleeps is a head that is gone
        awake = ("caffeinate", "-dis", "-w", str(pid))
        programs.append(Program("caffeinate", awake, environment))
    return programs


def adopt(
    found: Iterable[psutil.Process],
    folder: Path,
    environment: dict[str, str],
    clock: Callable[[], float] = time.monotonic,
) -> list[SideProcess]:
    """Those of Ray's processes that are started again when they end."""
    adopted = []
    for process in found:
        try:
            command = process.cmdline()
        except psutil.Error:
            # one that has just ended
            continue
        for name, part in ADOPTED.items():
            if any(part in word for word in command[:4]):
                program = Program(name, command, environment)
                adopted.append(SideProcess(program, folder, clock, process))
    missing = ADOPTED.keys() - {process.program.name for process in adopted}
    if missing:
        logger.error("not found among the head's processes: %s", ", ".join(sorted(missing)))
    return adopted


if __name__ == "__main__":
    main()
