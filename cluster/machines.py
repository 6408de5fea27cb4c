"""What a virtual machine is: its type, its state, and what to ask for to get one.

Plain values without I/O. The Compute Engine client (`cluster.gce.client`) makes and reads them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from cluster.vm.lifecycle import DEFAULT_NOTICE_SECONDS
from ironcliw.errors import ClusterError
from ironcliw.setting_sections import CLUSTER_NAME

Market = Literal["spot", "regular"]

CLUSTER_LABEL = "ironcliw-cluster"
"""Label of every machine of ours; its value is the cluster's name."""
HEAD_LABEL = "ironcliw-head"
"""Label of every machine of ours; its value is the id of the head that ordered it."""
TYPE_LABEL = "ironcliw-node-type"
"""Label of every machine of ours; its value is the node type in `ray_cluster.yaml`."""
METADATA_VALUE_BYTES = 256 * 1024
"""Of one metadata attribute, at most. Source:
https://cloud.google.com/compute/docs/metadata/setting-custom-metadata#limitations"""
DISK_TYPE = "pd-balanced"
"""Of boot disks; the price of disks in `cluster.money.prices` is this one's."""

# Gigabytes a vCPU and the sizes sold, by family and series. Source: the tables under
# https://cloud.google.com/compute/docs/general-purpose-machines
_SIZES: dict[str, tuple[float, tuple[int, ...]]] = {
    "e2-standard": (4, (2, 4, 8, 16, 32)),
    "e2-highmem": (8, (2, 4, 8, 16)),
    "e2-highcpu": (1, (2, 4, 8, 16, 32)),
    "n1-standard": (3.75, (1, 2, 4, 8, 16, 32, 64, 96)),
    "n1-highmem": (6.5, (2, 4, 8, 16, 32, 64, 96)),
    "n1-highcpu": (0.9, (2, 4, 8, 16, 32, 64, 96)),
    "n2-standard": (4, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)),
    "n2-highmem": (8, (2, 4, 8, 16, 32, 48, 64, 80, 96)),
    "n2-highcpu": (1, (2, 4, 8, 16, 32, 48, 64, 80, 96)),
    "n2d-standard": (4, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224)),
    "n2d-highmem": (8, (2, 4, 8, 16, 32, 48, 64, 80, 96)),
    "n2d-highcpu": (1, (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224)),
    "t2a-standard": (4, (1, 2, 4, 8, 16, 32, 48)),
    "t2d-standard": (4, (1, 2, 4, 8, 16, 32, 48, 60)),
    "c3-standard": (4, (4, 8, 22, 44, 88, 176)),
    "c3-highmem": (8, (4, 8, 22, 44, 88, 176)),
    "c3-highcpu": (2, (4, 8, 22, 44, 88, 176)),
}
# shared-core types: vCPUs that the guest sees, and gigabytes
_SHARED = {"e2-micro": (2, 1.0), "e2-small": (2, 2.0), "e2-medium": (2, 4.0)}


@dataclass(frozen=True, slots=True)
class MachineType:
    """A size of machine; memory in GB as GCE counts them (GiB)."""

    name: str
    cpus: int
    memory_gb: float


def machine_type(name: str) -> MachineType:
    """The machine type of that name.

    Raises:
        ClusterError: GCE sells no such type, or its family is not known here.
    """
    if name in _SHARED:
        cpus, memory = _SHARED[name]
        return MachineType(name, cpus, memory)
    family, _, size = name.rpartition("-")
    if family in _SIZES:
        per_cpu, sizes = _SIZES[family]
        # compared as text: "04" or " 4" is no name that GCE knows
        if size in map(str, sizes):
            return MachineType(name, int(size), round(int(size) * per_cpu, 2))
        known = ", ".join(f"{family}-{cpus}" for cpus in sizes)
        raise ClusterError(f"machine type {name!r} does not exist; of this family: {known}")
    families = ", ".join([*_SHARED, *(f"{known}-N" for known in _SIZES)])
    raise ClusterError(f"machine type {name!r} is not known; N being the vCPUs: {families}")


def region_of(zone: str) -> str:
    """The region of a zone: us-central1 of us-central1-a; empty where it has no zone's form."""
    return zone.rpartition("-")[0]


def vm_name(cluster: str) -> str:
    """A fresh name for a machine of a cluster: the cluster's and 8 random hexadecimal digits."""
    return f"{check_cluster_name(cluster)}-{secrets.token_hex(4)}"


def check_cluster_name(cluster: str) -> str:
    """The name itself, where machine names and labels can be made of it.

    Raises:
        ClusterError: it breaks GCE's rule for names.
    """
    if CLUSTER_NAME.fullmatch(cluster):
        return cluster
    raise ClusterError(
        f"cluster name {cluster!r} cannot begin a machine's name: it must be 1 to 54 lower-case "
        "letters, digits and hyphens, begin with a letter and not end with a hyphen"
    )


class VmStatus(StrEnum):
    """The life of a machine, in GCE's words."""

    PROVISIONING = "PROVISIONING"
    STAGING = "STAGING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUSPENDING = "SUSPENDING"
    SUSPENDED = "SUSPENDED"
    TERMINATED = "TERMINATED"
    REPAIRING = "REPAIRING"


_LIVE = frozenset({VmStatus.PROVISIONING, VmStatus.STAGING, VmStatus.RUNNING, VmStatus.REPAIRING})
_STOPPED = frozenset({VmStatus.TERMINATED, VmStatus.SUSPENDED})


@dataclass(frozen=True, slots=True)
class Vm:
    """A machine as the API lists it; times are aware and in UTC.

    `address` is the internal one, empty while there is none; `notice_seconds` is what its agent
    was told of the preemption's notice.
    """

    name: str
    zone: str
    machine_type: str
    market: Market
    status: VmStatus
    created_at: datetime
    started_at: datetime | None
    stopped_at: datetime | None
    max_run_seconds: int | None
    disk_gb: int
    labels: Mapping[str, str]
    address: str
    has_external_address: bool
    notice_seconds: int = DEFAULT_NOTICE_SECONDS

    @property
    def is_live(self) -> bool:
        """Whether it works or is about to."""
        return self.status in _LIVE

    @property
    def is_stopped(self) -> bool:
        """Whether it is off and stays so; its disk costs until it is deleted."""
        return self.status in _STOPPED


@dataclass(frozen=True, slots=True)
class VmRequest:
    """Everything that an insert says.

    `metadata` holds the startup script and what the agent reads, and may hold a token: it is not
    part of the `repr`. `request_id` is a UUID; sent again with it, an insert is the same insert.
    """

    name: str
    zone: str
    machine_type: str
    market: Market
    labels: Mapping[str, str]
    metadata: Mapping[str, str] = field(repr=False)
    image: str
    disk_gb: int
    network: str
    subnetwork: str | None
    external_address: bool
    service_account: str | None
    max_run_seconds: int
    notice_seconds: int
    request_id: str
