"""Orders of machines for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster.machines import VmRequest

_REQUEST = VmRequest(
    name="one",
    zone="us-central1-a",
    machine_type="e2-highmem-4",
    market="spot",
    labels={},
    metadata={},
    image="",
    disk_gb=50,
    network="",
    subnetwork=None,
    external_address=True,
    service_account=None,
    max_run_seconds=3600,
    notice_seconds=30,
    request_id="",
)


def vm_request(**changes: Any) -> VmRequest:
    """A Spot machine for an hour, with changes."""
    return replace(_REQUEST, **changes)
