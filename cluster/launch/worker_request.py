"""What an insert of a worker says: the autoscaler's order, the settings and the head in one."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.machines import CLUSTER_LABEL, HEAD_LABEL, TYPE_LABEL, VmRequest, vm_name
from cluster.vm.join_check import HeadVersions
from cluster.vm.startup import HeadAddress, WorkerFacts, metadata
from ironcliw.setting_sections import CloudSettings

LAUNCH_LABEL = "ironcliw-launch"
"""Label of a machine: the autoscaler's launch request, by which a new autoscaler knows it."""
ZONE_LABEL = "ray.io/availability-zone"
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")  # what GCE takes


@dataclass(frozen=True, slots=True)
class NodeOrder:
    """One worker, as the autoscaler orders it.

    Attributes:
        node_type: Key of `available_node_types`.
        resources: Ray's, which the node will offer.
        labels: Ray's node labels.
        launch_id: Of the autoscaler's request; empty if it gave none.
    """

    node_type: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    launch_id: str = ""


@dataclass(frozen=True, slots=True)
class HeadFacts:
    """What a worker must know of its head.

    `token` is used where no secret is named; `head_id` labels the machine as this head's.
    """

    address: HeadAddress
    versions: HeadVersions
    token: str | None = field(default=None, repr=False)
    head_id: str = ""


def worker_request(
    cluster: str, cloud: CloudSettings, order: NodeOrder, head: HeadFacts, zone: str
) -> VmRequest:
    """A fresh request with a name and an id of its own.

    Raises:
        SettingsError: A setting of the VPN, a secret or the token is missing.
        ClusterError: The cluster's name cannot begin a machine's.
    """
    facts = WorkerFacts(
        node_type=order.node_type,
        resources=order.resources,
        labels={**order.labels, ZONE_LABEL: zone},
        versions=head.versions,
        token=head.token,
    )
    labels = {CLUSTER_LABEL: cluster, TYPE_LABEL: order.node_type}
    if head.head_id:
        labels[HEAD_LABEL] = head.head_id
    if order.launch_id and _LABEL_VALUE.fullmatch(order.launch_id):
        labels[LAUNCH_LABEL] = order.launch_id
    return VmRequest(
        name=vm_name(cluster),
        zone=zone,
        machine_type=cloud.machine_type,
        market=cloud.market,
        labels=labels,
        metadata=metadata(cloud, head.address, facts),
        image=cloud.image,
        disk_gb=cloud.disk_gb,
        network=cloud.network,
        subnetwork=cloud.subnetwork,
        external_address=cloud.external_address,
        service_account=cloud.service_account,
        max_run_seconds=round(cloud.max_run_hours * 3600),
        notice_seconds=cloud.notice_seconds,
        request_id=str(uuid.uuid4()),
    )
