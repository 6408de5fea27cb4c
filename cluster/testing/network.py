"""A network of pretended machines: Linux namespaces on a bridge that leads nowhere.

The bridge lives in a namespace of its own and nothing joins it to the real network, so no packet
can leave. Needs Linux, root and the programs `ip` (iproute2) and `unshare` (util-linux).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import psutil

from ironcliw.errors import UnsupportedError

T = TypeVar("T")

HEAD_ADDRESS = "10.77.0.1"
METADATA_ADDRESS = "169.254.169.254"
_FOLDER = Path("/run/netns")
# the process that made a namespace is in its name: what a killed one left can be removed
_NAME = "iwt{pid}-{host}"
_NAMES = re.compile(r"iwt(\d+)-.+")
_CLONE_NEWNET = 0x40000000  # sched.h


def worker_address(count: int) -> str:
    """The address of the n-th worker, for `World(address=...)`."""
    return f"10.77.{(count + 11) // 250}.{(count + 11) % 250}"


def why_unavailable() -> str | None:
    """What this machine lacks for a `Network`; None: nothing."""
    if sys.platform != "linux":
        return f"network namespaces need Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "unshare") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (packages iproute2 and util-linux)"
    probe = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return "this machine (a container?) may not create namespaces"
    return None


class Network:
    """Hosts with an address each, which reach each other and nobody else; a context manager.

    Raises:
        UnsupportedError: This machine cannot have one; the message says why.
    """

    def __init__(self) -> None:
        if reason := why_unavailable():
            raise UnsupportedError(f"no network of namespaces: {reason}")
        self._numbers = itertools.count(1)
        self._ports: dict[str, str] = {}

    def __enter__(self) -> Self:
        _remove_leftovers()
        _ip("netns", "add", self._name("switch"))
        self._in_switch("link", "add", "bridge", "type", "bridge")
        self._in_switch("link", "set", "bridge", "up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for host in list(self._ports):
            self.remove(host)
        _ip("netns", "del", self._name("switch"))

    def add(self, host: str, address: str) -> None:
        """Add a host; it has a metadata address of its own beside that on the network."""
        name, port = self._name(host), f"port{next(self._numbers)}"
        _ip("netns", "add", name)
        self._ports[host] = port
        self._in_switch("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._in_switch("link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "address", "add", f"{address}/16", "dev", "eth0")
        _ip("-n", name, "address", "add", f"{METADATA_ADDRESS}/32", "dev", "lo")
        for interface in ("lo", "eth0"):
            _ip("-n", name, "link", "set", interface, "up")

    def remove(self, host: str) -> None:
        """Remove a host. Its processes and servers must have ended."""
        port = self._ports.pop(host)
        self._in_switch("link", "del", port)
        _ip("netns", "del", self._name(host))

    def set_link(self, host: str, *, up: bool) -> None:
        """Cut the cable of a host, or mend it; the host itself does not see which."""
        self._in_switch("link", "set", self._ports[host], "up" if up else "down")

    def command(
        self, host: str, arguments: Sequence[str], private_folders: Sequence[str] = ("/dev/shm",)
    ) -> list[str]:
        """A command line that runs another one on a host, as if on a machine of its own.

        It has its own processes, host name and network. When the outermost process is killed, all
        others are.

        Args:
            host: A host that was added.
            arguments: What to run.
            private_folders: Empty at the start and not shared, in memory. The rest of the file
                system is shared.
        """
        mounts = [
            f"mkdir -p {shlex.quote(folder)} && mount -t tmpfs tmpfs {shlex.quote(folder)}"
            for folder in private_folders
        ]
        steps = [f"hostname {shlex.quote(host)}", *mounts, f"exec {shlex.join(arguments)}"]
        spaces = ["--pid", "--fork", "--kill-child=KILL", "--mount", "--mount-proc", "--uts"]
        inside = ["unshare", *spaces, "/bin/sh", "-c", " && ".join(steps)]
        return self.enter(host, inside)

    def enter(self, host: str, arguments: Sequence[str]) -> list[str]:
        """A command line that runs another one with the network of a host, and shares the rest."""
        return ["ip", "netns", "exec", self._name(host), *arguments]

    def call(self, host: str, function: Callable[[], T]) -> T:
        """Call a function in this process, with the network of a host.

        Sockets that it opens stay there: that is how a server of a test gets to a host.
        """
        return _call_in(self._name(host), function)

    def _name(self, host: str) -> str:
        return _NAME.format(pid=os.getpid(), host=host)

    def _in_switch(self, *arguments: str) -> None:
        _ip("-n", self._name("switch"), *arguments)


def _call_in(namespace: str, function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _enter(namespace)
            results.append(function())
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            errors.append(error)

    # setns(2) moves the calling thread alone, so it gets one that ends afterwards
    thread = threading.Thread(target=run, name=f"in-{namespace}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(namespace: str) -> None:
    # os.setns is new in Python 3.12
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(_FOLDER / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if library.setns(descriptor, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), namespace)
    finally:
        os.close(descriptor)


def _remove_leftovers() -> None:
    """Remove the namespaces of processes that are gone."""
    for path in _FOLDER.glob("iwt*"):
        match = _NAMES.fullmatch(path.name)
        if match and not psutil.pid_exists(int(match[1])):
            _ip("netns", "del", path.name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnsupportedError(f"`ip {shlex.join(arguments)}` failed: {done.stderr.strip()}")
