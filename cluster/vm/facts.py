"""What a worker VM knows of itself: metadata server, network counters, processes, versions, files.

Shipped to the VM together with `agent.py`, so the standard library must do.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_POLL_SECONDS = 60
# Traffic through these leaves by the network card as well, where it is counted once.
_NOT_COUNTED = ("lo", "tailscale", "wg", "ironcliw", "tun", "docker", "veth", "br-")


def mismatch(head: Mapping[str, Any], python: str, installed: Callable[[str], str | None]) -> str:
    """What differs from the head, in words; empty when all agrees.

    Args:
        head: `python` and `match` ("patch" or "minor", Ray's own rule of `check_version_info`), and
            `pins`: the head's version of each distribution.
        python: the version of this interpreter.
        installed: the version of a distribution here, None without it: then nothing can clash.
    """
    parts = 2 if head.get("match") == "minor" else 3
    found = []
    if python.split(".")[:parts] != str(head["python"]).split(".")[:parts]:
        found.append(f"Python {python} here, {head['python']} on the head")
    for name, wanted in sorted(head["pins"].items()):
        here = installed(name)
        # "2.13.0+cpu" is the same release as "2.13.0"
        if here is not None and here.partition("+")[0] != wanted.partition("+")[0]:
            found.append(f"{name} {here} here, {wanted} on the head")
    return "; ".join(found)


def installed_version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_atomically(path: Path, text: str) -> None:
    """Write a file that readers see whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


class Metadata:
    """The VM's metadata server: `instance/preempted` and the attributes it was created with."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # the server is on the VM itself: a proxy of the environment must not be asked
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, query: str = "", timeout: float = 5.0) -> tuple[str, str]:
        """A value and its ETag; raises OSError or HTTPException."""
        request = urllib.request.Request(
            f"{self._url}/{path}{query}", headers={"Metadata-Flavor": "Google"}
        )
        with self._opener.open(request, timeout=timeout) as answer:
            return answer.read().decode(), answer.headers.get("ETag", "")

    def attribute(self, name: str, default: str) -> str:
        """An instance attribute, or the default where it is not set."""
        try:
            return self.get(f"instance/attributes/{name}")[0]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return default

    def wait_preempted(self, stop: threading.Event) -> bool:
        """Wait until GCP takes the VM back, whatever the server does meanwhile."""
        etag = ""
        while not stop.is_set():
            asked = time.monotonic()
            query = f"?wait_for_change=true&timeout_sec={_POLL_SECONDS}&last_etag={etag}"
            try:
                value, etag = self.get(
                    "instance/preempted", query if etag else "", timeout=_POLL_SECONDS + 10
                )
            except (OSError, http.client.HTTPException, ValueError):
                value, etag = "", ""
            if value.strip() == "TRUE":
                return True
            if time.monotonic() - asked < 0.5:
                # an error, or a server that does not wait: ask again, but not without a pause
                stop.wait(0.5)
        return False


def egress_bytes(table: str) -> int:
    """Bytes sent by the network cards, by the text of `/proc/net/dev`.

    An upper bound of what is billed: traffic within the zone is free and counted here all the same.
    """
    rows = (line.partition(":") for line in table.splitlines()[2:])
    return sum(int(row.split()[8]) for name, _, row in rows if _is_counted(name.strip()))


def _is_counted(interface: str) -> bool:
    return not interface.startswith(_NOT_COUNTED)


def _processes() -> Iterator[tuple[int, int, str, str]]:
    """(pid, parent, name, state) of every process; see proc(5)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                head, _, rest = (entry / "stat").read_text("utf-8", "replace").rpartition(")")
                yield int(entry.name), int(rest.split()[1]), head.partition("(")[2], rest.split()[0]


def is_running(pid: int) -> bool:
    """Whether a process lives; one that has ended and waits for its parent does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def raylet_of(ancestor: int) -> int | None:
    """The living raylet below a process: our own, never that of somebody else on this machine."""
    table = {pid: (parent, name, state) for pid, parent, name, state in _processes()}
    for pid, (parent, name, state) in table.items():
        while name == "raylet" and state not in "ZX" and parent:
            if parent == ancestor:
                return pid
            parent = table.get(parent, (0, "", ""))[0]
    return None


def node_id_of(raylet: int) -> str:
    """The id of a raylet's node, from its command line; empty when it has ended.

    The GCS may still hold another node of this VM's name, alive, from before a reboot.
    """
    try:
        arguments = Path(f"/proc/{raylet}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    flags = (argument.partition(b"=") for argument in arguments)
    return next((value.decode() for name, _, value in flags if name == b"--node_id"), "")
