"""Where a head listens, and whether it can."""

from __future__ import annotations

import errno
import socket

from cluster.head.processes import listener
from cluster.head.ray_environment import DASHBOARD_HOST
from ironcliw.errors import PortInUseError, SettingsError
from ironcliw.settings import Settings

# Of the ports, those whose address is a setting too; the others are on loopback.
_ADDRESS_SETTINGS = {"serve.port": "serve.host", "cluster.gcs_port": "cluster.node_ip"}


def head_ports(settings: Settings) -> dict[str, tuple[str, int]]:
    """Where a head listens: address and port, by the setting that names the port."""
    return {
        "serve.port": (settings.serve.host, settings.serve.port),
        "cluster.gcs_port": (settings.cluster.node_ip, settings.cluster.gcs_port),
        "cluster.dashboard_port": (DASHBOARD_HOST, settings.cluster.dashboard_port),
        "cluster.metrics_port": ("127.0.0.1", settings.cluster.metrics_port),
        "cluster.agent_port": ("127.0.0.1", settings.cluster.agent_port),
    }


def why_no_listening(name: str, host: str, port: int, error: OSError) -> tuple[str, str]:
    """Why nobody can listen there, and what to do; `name` as in `head_ports`."""
    setting = _ADDRESS_SETTINGS.get(name)
    if setting is not None and (
        error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror)
    ):
        return f"no interface of this machine has {setting}={host}", "start the VPN or correct it"
    reason = error.strerror or str(error)
    return f"port {port} ({name}) cannot be had at {host}: {reason}", "choose another port"


def check_ports(settings: Settings) -> None:
    """Refuse a start that could not listen.

    Raises:
        PortInUseError: Somebody else has a port that the head needs.
        SettingsError: This machine has not the address, or this user may not have the port.
    """
    for name, (host, port) in head_ports(settings).items():
        try:
            holder = listener(host, port)
        except OSError as error:
            raise SettingsError("; ".join(why_no_listening(name, host, port, error))) from error
        if holder is not None:
            variable = "IRONCLIW_" + name.upper().replace(".", "__")
            raise PortInUseError(
                f"port {port} ({name}) is taken by {holder}; stop it, or choose another port "
                f"with {variable}=PORT"
            )
