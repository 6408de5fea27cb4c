"""How `ironcliw doctor` looks at the machine and the cloud; a test replaces every look."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import shutil
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import select

from cluster.environment import Environment, detect, program_output, this_machine
from cluster.gce.secret_manager import read_secret
from cluster.head.head_id import read_head_id
from cluster.head.lifecycle import running_head
from cluster.head.processes import listener, tagged_processes
from cluster.head.ray_environment import token_path
from cluster.head.record import read_token
from cluster.status import fetch_status
from cluster.tables import cluster_vms
from cluster.vm.facts import installed_version
from ironcliw.errors import ClusterError, NotRunningError, StoreError
from ironcliw.settings import (
    LOOPBACK_HOSTS,
    PythonMatchLevel,
    Settings,
    process_environment,
    python_match_level,
)
from ironcliw.store import Store

COMPUTE_ENDPOINT = "https://compute.googleapis.com"
_TIMEOUT_SECONDS = 5.0
_SCOPES = ("https://www.googleapis.com/auth/compute",)
# The App Store's Tailscale puts no program on the PATH.
_MAC_TAILSCALE = Path("/Applications/Tailscale.app/Contents/MacOS/Tailscale")


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface; `mtu` is 0 where the system does not say."""

    addresses: tuple[str, ...]
    is_up: bool
    mtu: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """Google's application default credentials.

    Attributes:
        problem: Empty where they work; else `none`, `expired` or `offline`.
        detail: Whose they are, or what Google's library said.
    """

    problem: str
    detail: str


@dataclass(frozen=True, slots=True)
class Probes:
    """Looks at the machine, the network and the cloud.

    Attributes:
        environment: What this machine is.
        python: Version of this Python, to the patch level.
        match_level: How much of it a worker must share, by Ray's switch.
        installed: Version of a distribution; None: it is not installed.
        required: The exact version of a distribution that ours demands; None: no exact one.
        variable: A variable of this shell.
        program: Path of a program; None: there is none.
        output: What a program prints; None: it is absent or fails.
        interfaces: The network interfaces by name.
        listener: Who listens on an address and a port; None: nobody. OSError: nobody can.
        reaches_itself: Why a connection to an own address fails; None: it does not.
        head_runs: Whether a head of this state directory runs.
        nodes: The nodes of the running cluster; None: none answers.
        listening: Process, address and port of all that the running head listens on; None: no
            head runs.
        ordered: Names of the machines that this head has ordered; None: the store does not say.
        head_id: The id of this head; None: it has none yet.
        free_bytes: Free space where a path is, or would be.
        mode: Permission bits of a file; None: it does not exist.
        token: Ray's access token of this state directory; None: there is none yet.
        secret: The latest version of a secret of the project; None: it cannot be read here.
        clock_offset: Seconds by which our clock is ahead of a server's; None: it does not answer.
        credentials: Whether Google's credentials can be used.
        compute: The client of the Compute API.
        now: The time, in UTC.
    """

    environment: Callable[[], Environment]
    python: Callable[[], str]
    match_level: Callable[[], PythonMatchLevel]
    installed: Callable[[str], str | None]
    required: Callable[[str], str | None]
    variable: Callable[[str], str | None]
    program: Callable[[str], str | None]
    output: Callable[..., str | None]
    interfaces: Callable[[], dict[str, Interface]]
    listener: Callable[[str, int], str | None]
    reaches_itself: Callable[[str], str | None]
    head_runs: Callable[[], bool]
    nodes: Callable[[], list[dict[str, Any]] | None]
    listening: Callable[[], list[tuple[str, str, int]] | None]
    ordered: Callable[[], frozenset[str] | None]
    head_id: Callable[[], str | None]
    free_bytes: Callable[[Path], int]
    mode: Callable[[Path], int | None]
    token: Callable[[], str | None]
    secret: Callable[[str], str | None]
    clock_offset: Callable[[str], float | None]
    credentials: Callable[[], Credentials]
    compute: Callable[[], Any]
    now: Callable[[], datetime]


def real_probes(settings: Settings) -> Probes:
    """Probes of this machine and of the cloud that the settings name."""
    return Probes(
        environment=lambda: detect(this_machine(settings.cloud.metadata_url)),
        python=platform.python_version,
        match_level=python_match_level,
        installed=installed_version,
        required=required_version,
        variable=lambda name: process_environment().get(name),
        program=find_program,
        output=program_output,
        interfaces=network_interfaces,
        listener=listener,
        reaches_itself=reaches_itself,
        head_runs=lambda: running_head(settings) is not None,
        nodes=lambda: cluster_nodes(settings),
        listening=lambda: head_listens(settings),
        ordered=lambda: ordered_machines(settings),
        head_id=lambda: read_head_id(settings.state_dir),
        free_bytes=free_bytes,
        mode=file_mode,
        token=lambda: read_token(token_path(settings)),
        secret=lambda name: read_secret(settings.cloud.project or "", name),
        clock_offset=clock_offset,
        credentials=google_credentials,
        compute=lambda: _compute_client(settings),
        now=lambda: datetime.now(UTC),
    )


def required_version(distribution: str) -> str | None:
    """The exact version that the project's own metadata demands of a distribution."""
    pattern = re.compile(rf"{re.escape(distribution)}(?:\[[^\]]*\])?\s*==\s*([^\s;,]+)")
    try:
        demands = importlib.metadata.requires("ironcliw") or []
    except importlib.metadata.PackageNotFoundError:
        # run from a checkout that is not installed
        return None
    return next((found[1] for one in demands if (found := pattern.match(one))), None)


def find_program(name: str) -> str | None:
    """Path of a program."""
    found = shutil.which(name)
    if found is None and name == "tailscale" and _MAC_TAILSCALE.exists():
        return str(_MAC_TAILSCALE)
    return found


def network_interfaces() -> dict[str, Interface]:
    """The interfaces of this machine, with their internet addresses."""
    states = psutil.net_if_stats()
    result = {}
    for name, addresses in psutil.net_if_addrs().items():
        state = states.get(name)
        families = (socket.AF_INET, socket.AF_INET6)
        own = tuple(one.address.partition("%")[0] for one in addresses if one.family in families)
        result[name] = Interface(own, state is not None and state.isup, state.mtu if state else 0)
    return result


def reaches_itself(address: str) -> str | None:
    """Why this machine cannot connect to an address of its own; None: it can.

    A VPN in userspace mode gives an address that nobody can bind, or that goes nowhere
    (https://github.com/ray-project/ray/issues/51402).
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.bind((address, 0))
            server.listen(1)
            port = server.getsockname()[1]
            socket.create_connection((address, port), _TIMEOUT_SECONDS).close()
    except OSError as problem:
        return str(problem)
    return None


def cluster_nodes(settings: Settings) -> list[dict[str, Any]] | None:
    """The nodes that the running service reports; None: no service answers."""
    try:
        nodes: list[dict[str, Any]] = fetch_status(settings)["nodes"]
    except (NotRunningError, ClusterError):
        return None
    return nodes


def head_listens(settings: Settings) -> list[tuple[str, str, int]] | None:
    """Process, address and port of all that the head of this state directory listens on."""
    record = running_head(settings)
    if record is None:
        return None
    found = []
    for process in tagged_processes(record.session):
        with contextlib.suppress(psutil.Error):
            name = process.name()
            found += [
                (name, str(one.laddr.ip), int(one.laddr.port))
                for one in process.net_connections("tcp")
                if one.status == psutil.CONN_LISTEN
            ]
    return found


def ordered_machines(settings: Settings) -> frozenset[str] | None:
    """Names of the machines that this head has reserved money for; None: nothing is known."""
    query = select(cluster_vms.c.name).where(cluster_vms.c.reserved_at.is_not(None))
    try:
        with Store(settings.store_url) as store, store.read() as connection:
            return frozenset(connection.execute(query).scalars())
    except StoreError:
        return None


def free_bytes(path: Path) -> int:
    """Free space where a path is; for one that does not exist, where it would be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def file_mode(path: Path) -> int | None:
    """Permission bits of a file or a folder."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        return None


def clock_offset(url: str) -> float | None:
    """Seconds that our clock is ahead of a server's, to about a second: its `Date` has no more."""
    try:
        started_at = time.time()
        # a test bed on loopback is not behind the environment's proxy
        trust_env = httpx.URL(url).host not in LOOPBACK_HOSTS
        response = httpx.get(url, timeout=_TIMEOUT_SECONDS, trust_env=trust_env)
        middle = (started_at + time.time()) / 2
        return middle - parsedate_to_datetime(response.headers["date"]).timestamp()
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError):
        return None


def google_credentials() -> Credentials:
    """Look for credentials as Google's client will, and use them once."""
    try:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests as transport
    except ImportError:
        return Credentials("none", "google-auth is not installed")
    with warnings.catch_warnings():
        # that end-user credentials have no quota project is no news here
        warnings.simplefilter("ignore")
        try:
            found, project = google.auth.default(scopes=_SCOPES)
            found.refresh(transport.Request())  # type: ignore[no-untyped-call]
        except google.auth.exceptions.DefaultCredentialsError as problem:
            return Credentials("none", str(problem))
        except google.auth.exceptions.RefreshError as problem:
            return Credentials("expired", str(problem))
        except google.auth.exceptions.TransportError as problem:
            return Credentials("offline", str(problem))
    account = getattr(found, "service_account_email", None) or "end user"
    return Credentials("", f"{account}, project {project or 'not named'}")


def _compute_client(settings: Settings) -> Any:
    from cluster.gce.client import ComputeClient

    return ComputeClient(settings.cloud)
