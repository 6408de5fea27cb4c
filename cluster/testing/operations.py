"""Zone operations: PENDING, RUNNING, DONE, and the errors that show only when they are done.

The texts and details are those that Google sends; a client must classify by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.testing.catalogue import region_of


@dataclass(frozen=True, slots=True)
class OperationError:
    """Why an operation failed."""

    code: str
    message: str
    http_status: int
    http_message: str
    details: tuple[dict[str, Any], ...] = ()

    def body(self) -> dict[str, Any]:
        """One member of `error.errors`."""
        one: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details:
            one["errorDetails"] = list(self.details)
        return one


@dataclass(slots=True)
class Operation:
    """A long-running request of one zone; times are seconds since the epoch."""

    id: str
    name: str
    zone: str
    kind: str
    """Google's `operationType`: insert, delete, stop, setLabels, compute.instances.preempted..."""
    target: str
    """The instance's name."""
    target_id: str
    user: str
    inserted_at: float
    starts_at: float
    ends_at: float
    error: OperationError | None = None
    request_id: str | None = field(default=None)

    def status(self, now: float) -> str:
        """PENDING, RUNNING or DONE."""
        if now >= self.ends_at:
            return "DONE"
        return "RUNNING" if now >= self.starts_at else "PENDING"


def stockout(project: str, zone: str, machine_type: str, hint: Sequence[str]) -> OperationError:
    """No capacity; with a hint Google names zones that have some."""
    message = (
        f"The zone 'projects/{project}/zones/{zone}' does not have enough resources available to "
        "fulfill the request.  '(resource type:compute)'."
    )
    if not hint:
        message += " Try a different zone, or try again later."
        return OperationError("ZONE_RESOURCE_POOL_EXHAUSTED", message, 503, "SERVICE UNAVAILABLE")
    info = {
        "reason": "resource_availability",
        "domain": "compute.googleapis.com",
        "metadatas": {
            "attachment": "",
            "vmType": machine_type,
            "zone": zone,
            "zonesAvailable": ",".join(hint),
        },
    }
    return OperationError(
        "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        message,
        503,
        "SERVICE UNAVAILABLE",
        ({"errorInfo": info},),
    )


def quota_exceeded(zone: str, metric: str, limit: float) -> OperationError:
    """The region's quota does not allow the VM."""
    region = region_of(zone)
    message = f"Quota '{metric}' exceeded.  Limit: {limit:.1f} in region {region}."
    info = {
        "metricName": f"compute.googleapis.com/{metric.lower()}",
        "limitName": f"{metric.replace('_', '-')}-per-project-region",
        "dimensions": {"region": region},
        "limit": limit,
    }
    return OperationError("QUOTA_EXCEEDED", message, 403, "FORBIDDEN", ({"quotaInfo": info},))


def preempted_while_creating(name: str) -> OperationError:
    """Google took the VM back before it ran."""
    message = f"Instance '{name}' creation failed: The instance was preempted while being created."
    return OperationError("UNSUPPORTED_OPERATION", message, 400, "BAD REQUEST")


def deleted_while_creating(resource: str) -> OperationError:
    """Somebody deleted the VM before it ran."""
    message = f"The resource '{resource}' was not found"
    return OperationError("RESOURCE_NOT_FOUND", message, 404, "NOT FOUND")


def not_ready(resource: str) -> OperationError:
    """The name still belongs to a VM that is stopping."""
    message = f"The resource '{resource}' is not ready"
    return OperationError("RESOURCE_NOT_READY", message, 400, "BAD REQUEST")


def rate_exceeded() -> OperationError:
    """Too many operations on the resources of a project."""
    message = "Operation rate exceeded for resource. Too frequent operations from the source."
    return OperationError("RESOURCE_OPERATION_RATE_EXCEEDED", message, 429, "TOO MANY REQUESTS")
