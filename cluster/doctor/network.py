"""What `ironcliw doctor` checks of the network between the head and its workers."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from cluster.doctor.probes import Interface, Probes
from cluster.doctor.report import Check, error, not_needed, ok, warning
from cluster.gce.session import is_test_bed
from cluster.machines import Vm
from cluster.own_machines import divide
from ironcliw.errors import IroncliwError, SettingsError
from ironcliw.settings import LOOPBACK_HOSTS, Settings

NO_WORKERS = "no workers, as cloud.project is unset"
# WireGuard adds 60 bytes to a packet over IPv4 and 80 over IPv6, of 1500; Tailscale takes 1280,
# the least that IPv6 allows. https://www.wireguard.com/papers/wireguard.pdf, section 7.1
_MTU_RANGE = (1280, 1420)
_INSTALL = {
    "tailscale": "install it (https://tailscale.com/download), then: tailscale up",
    "wireguard": "install wireguard-tools, then bring the interface up: wg-quick up NAME",
}


def check_address(settings: Settings, probes: Probes) -> Check:
    """Workers can reach `cluster.node_ip`: an address of an interface here, and not loopback."""
    address = settings.cluster.node_ip
    if settings.cloud.project is None:
        return not_needed("address", NO_WORKERS)
    if address in LOOPBACK_HOSTS or _is_loopback(address):
        if _has_test_bed(settings):
            return ok("address", f"{address}; good for a test bed on this machine alone")
        return error(
            "address",
            f"cluster.node_ip is {address}, which no other machine can reach",
            f"set cluster.node_ip{_suggestion(settings, probes)}",
        )
    found = _interface_of(address, probes)
    if found is None:
        return error(
            "address",
            f"no interface of this machine has cluster.node_ip, {address}",
            f"start the VPN, or set cluster.node_ip{_suggestion(settings, probes)}",
        )
    name, interface = found
    if not interface.is_up:
        return error("address", f"{name}, which has {address}, is down", "start the VPN")
    problem = probes.reaches_itself(address)
    if problem is not None:
        return error(
            "address",
            f"this machine cannot connect to its own {address} ({problem})",
            "run the VPN in kernel mode (a TUN device), not in userspace, and look at the firewall",
        )
    return _mtu(settings, address, name, interface)


def _mtu(settings: Settings, address: str, name: str, interface: Interface) -> Check:
    found = f"{address} on {name}, MTU {interface.mtu}"
    low, high = _MTU_RANGE
    is_tunnel = settings.cloud.vpn != "none" and not _has_test_bed(settings)
    if is_tunnel and interface.mtu and not low <= interface.mtu <= high:
        return warning(
            "address",
            f"{found}: packets through a tunnel should have {low} to {high} bytes, or large "
            "objects stall",
            f"set the MTU of {name} to {low}",
        )
    return ok("address", found)


def _has_test_bed(settings: Settings) -> bool:
    """Whether the machines are of a test bed, in one network with the head."""
    try:
        return is_test_bed(settings.cloud.api_endpoint)
    except SettingsError:
        return False  # check `project` says what is wrong with the endpoint


def _interface_of(address: str, probes: Probes) -> tuple[str, Interface] | None:
    wanted = ipaddress.ip_address(address) if _is_address(address) else address
    for name, interface in probes.interfaces().items():
        for one in interface.addresses:
            if (ipaddress.ip_address(one) if _is_address(one) else one) == wanted:
                return name, interface
    return None


def _is_loopback(address: str) -> bool:
    # 127.0.0.2 too: heads of test beds have it
    return _is_address(address) and ipaddress.ip_address(address).is_loopback


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _suggestion(settings: Settings, probes: Probes) -> str:
    """The address to set, where the VPN tells it."""
    if settings.cloud.vpn == "tailscale":
        addresses = _tailscale(probes).get("TailscaleIPs") or []
        if addresses:
            return f" = {addresses[0]!r}, this machine's address in Tailscale"
    return " to this machine's address in the network of the workers"


def check_vpn(settings: Settings, probes: Probes) -> Check:
    """The VPN's program is there, it is connected, and it is in kernel mode."""
    vpn = settings.cloud.vpn
    if settings.cloud.project is None:
        return not_needed("vpn", NO_WORKERS)
    if vpn == "none":
        return not_needed("vpn", "cloud.vpn is `none`: head and workers are in one network")
    if _has_test_bed(settings):
        return not_needed("vpn", "a test bed reaches its machines without one")
    if probes.program("tailscale" if vpn == "tailscale" else "wg") is None:
        return error("vpn", f"cloud.vpn is {vpn}, which is not installed", _INSTALL[vpn])
    if settings.cloud.vpn_secret is None:
        return error(
            "vpn",
            f"cloud.vpn is {vpn} and cloud.vpn_secret is unset: a worker has no key to join with",
            "store a key in Secret Manager (for Tailscale an ephemeral, tagged auth key) and set "
            "cloud.vpn_secret to the secret's name",
        )
    if vpn == "wireguard":
        return _wireguard(settings, probes)
    return _tailscale_state(settings, probes)


def _wireguard(settings: Settings, probes: Probes) -> Check:
    names = sorted(
        name
        for name, one in probes.interfaces().items()
        # wg-quick on macOS names them utun, as other VPNs do
        if name.startswith(("wg", "utun", "ironcliw")) and one.is_up and one.addresses
    )
    if not names:
        return error("vpn", "no WireGuard interface is up", "wg-quick up NAME")
    if settings.cloud.max_workers > 1:
        return warning(
            "vpn",
            f"cloud.vpn_secret is one WireGuard configuration for {settings.cloud.max_workers} "
            "workers: one key and one address, which the worker that starts last takes from the "
            "others",
            "set cloud.max_workers = 1, or cloud.vpn = 'tailscale', whose key many may use",
        )
    return warning(
        "vpn",
        f"WireGuard ({', '.join(names)}) works for one worker; a replacement that starts while the "
        "old one still hands its work over takes the address from it",
        "set cloud.vpn = 'tailscale' where work must move before a preempted worker dies",
    )


def _tailscale_state(settings: Settings, probes: Probes) -> Check:
    status = _tailscale(probes)
    state = status.get("BackendState")
    if state != "Running":
        return error(
            "vpn",
            f"Tailscale is {state or 'not running'}, and by cloud.vpn workers come through it",
            "tailscale up",
        )
    if status.get("TUN") is False:
        return error(
            "vpn",
            "Tailscale runs in userspace mode: nothing here can listen on its address",
            "start tailscaled without --tun=userspace-networking",
        )
    addresses = status.get("TailscaleIPs") or []
    if addresses and settings.cluster.node_ip not in addresses:
        return warning(
            "vpn",
            f"Tailscale gave this machine {addresses[0]}; cluster.node_ip is "
            f"{settings.cluster.node_ip}",
            f"set cluster.node_ip = {addresses[0]!r}",
        )
    return ok("vpn", f"Tailscale, {', '.join(addresses)}")


def _tailscale(probes: Probes) -> dict[str, Any]:
    """`tailscale status --json`; empty where it says nothing (ipn/ipnstate/ipnstate.go)."""
    program = probes.program("tailscale")
    text = probes.output(program, "status", "--json") if program else None
    try:
        status = json.loads(text or "{}")
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}


def divide_listed(settings: Settings, probes: Probes, client: Any) -> tuple[list[Vm], list[Vm]]:
    """The machines of this head, and those of others that carry its cluster's name.

    Args:
        settings: Say which name.
        probes: Say which head this is.
        client: Of the cloud.

    Raises:
        ClusterError: The cloud refused or did not answer, or the head's id cannot be read.
    """
    listed = client.list_vms(settings.cloud.cluster_name)
    return divide(listed, probes.head_id(), lambda names: probes.ordered() or frozenset())


def check_workers(settings: Settings, probes: Probes) -> Check:
    """Head and workers reach each other: every machine that runs has joined and is alive.

    A node is alive when it has reached the head, and the head's health checks reach it.
    """
    if settings.cloud.project is None:
        return not_needed("workers", NO_WORKERS)
    nodes = probes.nodes()
    if nodes is None:
        return not_needed("workers", "no head runs; look again when one does, and has workers")
    try:
        own, _ = divide_listed(settings, probes, probes.compute())
        machines = [vm for vm in own if vm.status == "RUNNING"]
    except IroncliwError as problem:
        return error("workers", problem.message, "see the other checks of the cloud")
    # GCE's host names go on with zone and project
    alive = {str(one["name"]).partition(".")[0] for one in nodes if one["alive"]}
    now = probes.now()
    silent = [
        vm.name
        for vm in machines
        if vm.name not in alive
        and (now - (vm.started_at or vm.created_at)).total_seconds() > settings.cloud.join_seconds
    ]
    if silent:
        return error(
            "workers",
            f"{', '.join(silent)} run and have not joined within cloud.join_seconds",
            "read their serial console: gcloud compute instances get-serial-port-output NAME, or, "
            "when they are deleted, its end in `ironcliw status`; "
            "look at the VPN's key, its access rules and this machine's firewall, both ways",
        )
    if not machines:
        return not_needed("workers", "none runs; look again when one has joined")
    joined = sum(vm.name in alive for vm in machines)
    others = ", the others are still starting" if joined < len(machines) else ""
    return ok("workers", f"{joined} of {len(machines)} joined{others}")
