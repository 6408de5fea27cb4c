"""What `ironcliw doctor` checks of secrets, of open ports, and of who else uses our names."""

from __future__ import annotations

import ipaddress

from cluster.doctor.network import NO_WORKERS, divide_listed
from cluster.doctor.probes import Probes
from cluster.doctor.report import Check, State, error, not_needed, ok, warning
from cluster.gce.errors import GceError
from cluster.gce.session import is_test_bed
from cluster.head.ray_environment import token_path
from cluster.own_machines import whose
from ironcliw.errors import IroncliwError
from ironcliw.settings import LOOPBACK_HOSTS, Settings

_SHOWN = 4


def check_secrets(settings: Settings, probes: Probes) -> Check:
    """Workers get the token and the VPN's key from Secret Manager, with an account that may."""
    cloud = settings.cloud
    if cloud.project is None:
        return not_needed("secrets", NO_WORKERS)
    named = [
        f"cloud.{name}"
        for name in ("token_secret", "vpn_secret")
        if getattr(cloud, name) is not None
    ]
    if named and cloud.service_account is None:
        return error(
            "secrets",
            f"{' and '.join(named)} cannot be read by a worker: cloud.service_account is unset, "
            "and a machine without an account may read nothing",
            "set cloud.service_account to one with roles/secretmanager.secretAccessor on them; "
            "cluster/deploy/terraform makes one",
        )
    if cloud.token_secret is None and not is_test_bed(cloud.api_endpoint):
        return warning(
            "secrets",
            "cloud.token_secret is unset: Ray's token is in the metadata of every worker, where "
            "whoever may look at the project's machines reads it, and runs code here with it",
            "store the token in Secret Manager and set cloud.token_secret to the secret's name: "
            "see cluster/deploy/README.md",
        )
    if cloud.token_secret is not None and not is_test_bed(cloud.api_endpoint):
        stored = probes.secret(cloud.token_secret)
        if stored is not None and stored != probes.token():
            return _other_token(settings, cloud.token_secret, probes)
    return ok("secrets", f"{', '.join(named) or 'none'}; read as {cloud.service_account or '-'}")


def _other_token(settings: Settings, secret: str, probes: Probes) -> Check:
    """Workers would come with a token that the head does not have, and be refused."""
    path = token_path(settings)
    take = f"gcloud secrets versions access latest --secret={secret} --out-file={path}"
    take = f"{take} --project={settings.cloud.project} && chmod 600 {path}"
    if probes.token() is None:
        return warning(
            "secrets",
            f"there is no {path} yet and the secret {secret} holds a token: `ironcliw up` would "
            "make another one here, and refuse the workers, which have the secret's",
            f"take the secret's: {take}",
        )
    give = f"gcloud secrets versions add {secret} --data-file={path}"
    return warning(
        "secrets",
        f"the token in {path} is not the latest version of the secret {secret}, with which workers "
        "come: none of them would be let in",
        f"store this one: {give} --project={settings.cloud.project}; or take the secret's, with no "
        f"head running: {take}",
    )


def check_open_ports(settings: Settings, probes: Probes) -> Check:
    """Nothing listens beyond loopback and the address of the VPN.

    Ray 2.60 does: its gRPC servers take every address once `cluster.node_ip` is not loopback, and
    no setting of it changes that. So a firewall has to.
    """
    name, address = "open ports", settings.cluster.node_ip
    if settings.cloud.project is None:
        return not_needed(name, NO_WORKERS)
    listening = probes.listening()
    if listening is None:
        return not_needed(name, "no head runs; look again when one does")
    if address in LOOPBACK_HOSTS:
        return ok(name, "cluster.node_ip is loopback, and so is what listens but Serve's replicas")
    beyond = sorted({(port, who) for who, where, port in listening if _is_everywhere(where)})
    others = _other_addresses(address, probes)
    if not beyond or not others:
        return ok(name, f"none beyond loopback and {address}")
    shown = ", ".join(f"{port} ({who})" for port, who in beyond[:_SHOWN])
    more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
    return warning(
        name,
        f"{shown}{more} can be reached at {', '.join(others)} too, not only at {address}; Ray's "
        "token guards them, and the connection is not encrypted there",
        f"let the firewall pass them on the interface of {address} alone: pf on macOS, nftables or "
        "ufw on Linux; cluster/deploy/README.md has the rules",
    )


def _is_everywhere(address: str) -> bool:
    return ipaddress.ip_address(address).is_unspecified


def _other_addresses(own: str, probes: Probes) -> list[str]:
    """Addresses of this machine that others reach, without the VPN's."""
    vpn = {name for name, one in probes.interfaces().items() if own in one.addresses}
    found = [
        address
        for name, one in probes.interfaces().items()
        if name not in vpn and one.is_up
        for address in one.addresses
    ]
    return sorted(address for address in found if not _is_local(address))


def _is_local(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    return parsed.is_loopback or parsed.is_link_local


def check_names(settings: Settings, probes: Probes) -> Check:
    """Every machine that carries our cluster's name is this head's.

    Heads with one `cloud.cluster_name` leave each other's machines alone, but people cannot tell
    them by their names, and nobody deletes those of a head that has lost its state.
    """
    name, cluster = "names", settings.cloud.cluster_name
    if settings.cloud.project is None:
        return not_needed(name, NO_WORKERS)
    try:
        own, others = divide_listed(settings, probes, probes.compute())
    except GceError as problem:
        passes = problem.kind in ("unavailable", "rate")
        step = "see the other checks of the cloud"
        return Check(name, State.ERROR, problem.message, step, passes=passes)
    except IroncliwError as problem:
        return error(name, problem.message, "see the other checks of the cloud")
    if others:
        shown = ", ".join(f"{vm.name} ({whose(vm)})" for vm in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        return warning(
            name,
            f"{shown}{more} carry the name {cluster!r} and are not this head's: another one has "
            "the same name, or this one has lost its state",
            "give each head of the project a cloud.cluster_name of its own; machines of nobody "
            "end by cloud.max_run_hours, or by: gcloud compute instances delete NAME",
        )
    return ok(name, f"{len(own)} machines carry {cluster!r}, all ordered here")
