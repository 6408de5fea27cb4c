"""The processes of one head: found by the tag in their environment, ended in order.

Matching by tag instead of by name means that another Ray on the same machine is never touched,
which `ray stop` cannot promise: it ends whatever looks like Ray.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket

import psutil

from cluster.head.ray_environment import SESSION_VARIABLE

logger = logging.getLogger(__name__)

_KILL_SECONDS = 2.0
# Parts of command lines: the module that starts others again, and Ray's autoscaler.
SUPERVISOR = "cluster.head.supervisor"
MONITOR = "autoscaler/v2/monitor.py"


def tagged_processes(session: str | None) -> list[psutil.Process]:
    """Processes of this user that belong to a session (to any when None), not ourselves.

    Some of Ray's processes overwrite their environment when they set their title. They are found
    through those that do not: all share the POSIX session that `ray start` was put in.
    """
    tagged = [process for process in psutil.process_iter() if _has_tag(process, session)]
    sessions = {_posix_session(process.pid) for process in tagged}
    sessions -= {_posix_session(0), None}
    own = psutil.Process().pid
    found = {process.pid: process for process in tagged}
    for process in psutil.process_iter():
        if _posix_session(process.pid) in sessions:
            found.setdefault(process.pid, process)
    found.pop(own, None)
    return list(found.values())


def session_tags() -> set[str]:
    """The tags of all heads of this user."""
    tags = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            tags.add(process.environ().get(SESSION_VARIABLE, ""))
    return tags - {""}


def _has_tag(process: psutil.Process, session: str | None) -> bool:
    try:
        value = process.environ().get(SESSION_VARIABLE)
    except (psutil.Error, OSError):
        return False
    return bool(value) and session in (None, value)


def _posix_session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def end_processes(session: str, *, grace_seconds: float = 1.5) -> int:
    """End all processes of a session; returns how many there were.

    All get SIGTERM at once, the raylet and the GCS too, so that nothing starts what has just ended
    anew; the supervisor, which would, is ended before. Whatever is left when the grace is over is
    killed, and what it had started meanwhile.
    """
    ended = end_named(session, SUPERVISOR, grace_seconds=grace_seconds)
    processes = tagged_processes(session)
    _end(processes, grace_seconds)
    while remaining := tagged_processes(session):
        _end(remaining, 0.0)
    return ended + len(processes)


def end_named(session: str, *parts: str, grace_seconds: float = 1.5) -> int:
    """End the processes of a session whose command line holds one of these parts."""
    named = []
    for process in tagged_processes(session):
        with contextlib.suppress(psutil.Error):
            if any(part in word for part in parts for word in process.cmdline()):
                named.append(process)
    _end(named, grace_seconds)
    return len(named)


def _end(processes: list[psutil.Process], grace_seconds: float) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, remaining = psutil.wait_procs(processes, timeout=grace_seconds)
    for process in remaining:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(remaining, timeout=_KILL_SECONDS)


def end_ray_client_server(session: str) -> None:
    """End the Ray Client server of a head that has started.

    `ray start` has no option to leave it out. Nothing here speaks Ray Client, it holds 50 MB, and
    every port less is a port less to guard.
    """
    for process in tagged_processes(session):
        with contextlib.suppress(psutil.Error):
            if "ray.util.client.server" in process.cmdline():
                process.terminate()


def listener(host: str, port: int) -> str | None:
    """Who listens on a port: None when it is free, else a description.

    Raises:
        OSError: Nobody can listen there, whoever holds the port: EADDRNOTAVAIL where no interface
            of this machine has the address, as that of a VPN that is down.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # as the service itself will bind: connections of an ended one may linger in TIME_WAIT
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return _describe_listener(port) or "a process that this user may not look at"
    return None


def _describe_listener(port: int) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if local and local.port == port and connection.status == psutil.CONN_LISTEN:
                name = psutil.Process(connection.pid).name() if connection.pid else "a process"
                return f"{name} (pid {connection.pid})"
    return None
