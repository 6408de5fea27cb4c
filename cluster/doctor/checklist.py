"""Everything that `ironcliw doctor` looks at, in the order in which it should be put right."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.doctor.checks import (
    check_cluster_file,
    check_disk,
    check_keep_warm,
    check_machine,
    check_macos,
    check_ports,
    check_token,
    check_versions,
)
from cluster.doctor.cloud import FIRST, check_access, check_budget, check_clock
from cluster.doctor.network import check_address, check_vpn, check_workers
from cluster.doctor.probes import Probes
from cluster.doctor.report import Check, State, not_needed
from cluster.doctor.security import check_names, check_open_ports, check_secrets
from ironcliw.settings import Settings

_OF_THIS_MACHINE = (
    check_machine,
    check_versions,
    check_cluster_file,
    check_ports,
    check_disk,
    check_token,
    check_macos,
)
_OF_THE_CLUSTER = (
    check_budget,
    check_keep_warm,
    check_vpn,
    check_address,
    check_open_ports,
    check_secrets,
    check_clock,
)


def examine(settings: Settings, probes: Probes) -> Iterator[Check]:
    """Make every check; each is given as soon as it is made, since the cloud can be slow."""
    for check in (*_OF_THIS_MACHINE, *_OF_THE_CLUSTER):
        yield check(settings, probes)
    refused = ""
    for found in check_access(settings, probes):
        if found.state is State.ERROR and found.name in FIRST:
            refused = found.name
        yield found
    if refused:
        yield not_needed("names", f"not looked at: put {refused} right first")
    else:
        yield check_names(settings, probes)
    yield check_workers(settings, probes)
