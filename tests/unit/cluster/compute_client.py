"""Orders of machines for tests of the Compute client."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from cluster.machines import CLUSTER_LABEL, TYPE_LABEL, VmRequest, vm_name
from cluster.vm.lifecycle import NOTICE_ATTRIBUTE

A, B, C, F = "us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f"


def new_request(zone: str = A, cluster: str = "home", **changes: Any) -> VmRequest:
    request = VmRequest(
        name=vm_name(cluster),
        zone=zone,
        machine_type="e2-highmem-4",
        market="spot",
        labels={CLUSTER_LABEL: cluster, TYPE_LABEL: "spot"},
        metadata={"startup-script": "true", NOTICE_ATTRIBUTE: "120"},
        image="projects/debian-cloud/global/images/family/debian-12",
        disk_gb=50,
        network="global/networks/default",
        subnetwork=None,
        external_address=False,
        service_account=None,
        max_run_seconds=14_400,
        notice_seconds=120,
        request_id=str(uuid.uuid4()),
    )
    return replace(request, **changes)
