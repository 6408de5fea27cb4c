"""How a new VM comes up, or why it does not: faults and quotas.

Nothing is changed here but the count of how often a fault was applied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.testing import operations
from cluster.testing.catalogue import Catalogue, region_of
from cluster.testing.fault_plan import FaultPlan
from cluster.testing.faults import (
    OperationFails,
    QuotaExceeded,
    RateLimited,
    RejectedField,
    SlowBoot,
    Stockout,
)
from cluster.testing.instances import State
from cluster.testing.operations import OperationError
from cluster.testing.world import World


@dataclass(frozen=True, slots=True)
class Boot:
    """When a VM will be where; times are seconds since the epoch."""

    states: tuple[tuple[float, State], ...]
    running_at: float
    guest_at: float


def plan_boot(world: World, zone: str, name: str) -> Boot:
    """The first states of a VM that is created now."""
    now, timings = world.now, world.timings
    late = world.faults.use(SlowBoot, now, zone, name)
    machine = late.extra if late and late.stage == "provisioning" else 0.0
    guest = late.extra if late and late.stage == "guest" else 0.0
    staging_at = now + timings.provisioning + machine
    running_at = staging_at + timings.staging
    states: tuple[tuple[float, State], ...] = (
        (now, "PROVISIONING"),
        (staging_at, "STAGING"),
        (running_at, "RUNNING"),
    )
    return Boot(states, running_at, running_at + timings.boot + guest)


def rejected_field(faults: FaultPlan, now: float, zone: str, body: dict[str, Any]) -> str | None:
    """The field of an insert that this project may not use, by a fault."""
    for fault in faults.all_active(RejectedField, now):
        value: Any = body
        for part in fault.field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and faults.use(RejectedField, now, zone, str(body.get("name", ""))):
            return fault.field
    return None


def refusal(world: World, zone: str, resource: dict[str, Any]) -> OperationError | None:
    """Why the operation of an insert will fail; None: it will not."""
    now, faults, name = world.now, world.faults, str(resource["name"])
    if (rate := faults.active(RateLimited, now, zone, name)) and rate.late:
        faults.use(RateLimited, now, zone, name)
        return operations.rate_exceeded()
    if quota := faults.use(QuotaExceeded, now, zone, name):
        return operations.quota_exceeded(zone, quota.metric, quota.limit)
    if exceeded := _exceeded_quota(world, zone, resource):
        return operations.quota_exceeded(zone, exceeded, world.catalogue.quotas[exceeded])
    if failure := faults.use(OperationFails, now, zone, name):
        return OperationError(failure.code, failure.message, failure.status, failure.code)
    if empty := faults.use(Stockout, now, zone, name):
        hint = _zones_with_room(world, zone) if empty.hint is None else empty.hint
        kind = str(resource["machineType"]).rpartition("/")[2]
        return operations.stockout(world.catalogue.project, zone, kind, hint)
    return None


def _zones_with_room(world: World, zone: str) -> tuple[str, ...]:
    return tuple(
        other
        for other in world.catalogue.zones
        if region_of(other) == region_of(zone)
        and world.faults.active(Stockout, world.now, other) is None
        and other != zone
    )


def _exceeded_quota(world: World, zone: str, resource: dict[str, Any]) -> str | None:
    used = quota_usage(world, region_of(zone))
    wanted = _needs(resource, world.catalogue)
    for metric, limit in world.catalogue.quotas.items():
        if used.get(metric, 0.0) + wanted.get(metric, 0.0) > limit and metric in wanted:
            return metric
    return None


def quota_usage(world: World, region: str) -> dict[str, float]:
    """What the VMs of a region use, by metric; a stopped VM has its disk only."""
    used: dict[str, float] = {}
    for instance in world.instances.values():
        if region_of(instance.zone) == region:
            stopped = instance.status(world.now) == "TERMINATED"
            _add(used, _needs(instance.body, world.catalogue), only_disk=stopped)
    return used


def _add(used: dict[str, float], needs: dict[str, float], *, only_disk: bool) -> None:
    for metric, amount in needs.items():
        if metric == "DISKS_TOTAL_GB" or not only_disk:
            used[metric] = used.get(metric, 0.0) + amount


def _needs(resource: dict[str, Any], catalogue: Catalogue) -> dict[str, float]:
    kind = catalogue.types[str(resource["machineType"]).rpartition("/")[2]]
    # a project without a quota of preemptible CPUs uses the ordinary one for Spot VMs too:
    # https://cloud.google.com/compute/docs/instances/spot#quotas
    has_own = resource["scheduling"]["preemptible"] and catalogue.quotas.get("PREEMPTIBLE_CPUS")
    addresses = _count_external(resource.get("networkInterfaces", []))
    disks = sum(float(disk["diskSizeGb"]) for disk in resource.get("disks", []))
    needs = {
        "PREEMPTIBLE_CPUS" if has_own else "CPUS": float(kind.cpus),
        "INSTANCES": 1.0,
        "DISKS_TOTAL_GB": disks,
    }
    return {**needs, "IN_USE_ADDRESSES": addresses} if addresses else needs


def _count_external(interfaces: Iterable[dict[str, Any]]) -> float:
    return float(sum(len(interface.get("accessConfigs", [])) for interface in interfaces))
