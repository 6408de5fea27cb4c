"""The JSON of resources, as the Compute API shows them."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cluster.testing.catalogue import OfferedImage, OfferedType, region_of
from cluster.testing.instances import Instance, State
from cluster.testing.operations import Operation
from cluster.testing.world import World

Json = dict[str, Any]

_ROOT = "https://www.googleapis.com/compute/v1"


def fingerprint(value: object) -> str:
    """Changes when the value does, in the form of Google's."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def link(world: World, path: str) -> str:
    """The URL of something in the project. It leads to Google, as in the real answers."""
    return f"{_ROOT}/projects/{world.catalogue.project}/{path}"


def instance_json(world: World, instance: Instance) -> Json:
    """A VM now."""
    now, zone = world.now, f"zones/{instance.zone}"
    metadata = instance.body.get("metadata", {}).get("items", [])
    shown = {
        **instance.body,
        "kind": "compute#instance",
        "id": instance.id,
        "status": instance.status(now),
        "creationTimestamp": world.stamp(instance.created_at),
        "selfLink": link(world, f"{zone}/instances/{instance.name}"),
        "zone": link(world, zone),
        "labelFingerprint": fingerprint(instance.labels),
        "fingerprint": fingerprint([instance.id, instance.status(now)]),
        "metadata": {
            "kind": "compute#metadata",
            "fingerprint": fingerprint(metadata),
            "items": metadata,
        },
        "networkInterfaces": _interfaces(instance),
    }
    states: tuple[tuple[str, State], ...] = (
        ("lastStartTimestamp", "RUNNING"),
        ("lastStopTimestamp", "TERMINATED"),
    )
    for field, state in states:
        at = instance.entered(state)
        if at is not None and at <= now:
            shown[field] = world.stamp(at)
    return shown


def _interfaces(instance: Instance) -> list[Json]:
    shown = []
    for number, interface in enumerate(instance.body["networkInterfaces"]):
        one = {
            **interface,
            "kind": "compute#networkInterface",
            "name": f"nic{number}",
            "networkIP": instance.address,
        }
        if number == 0 and instance.external_address:
            external = {"name": "External NAT", "type": "ONE_TO_ONE_NAT"}
            given = (interface.get("accessConfigs") or [{}])[0]
            one["accessConfigs"] = [{**external, **given, "natIP": instance.external_address}]
        shown.append(one)
    return shown


def operation_json(world: World, operation: Operation) -> Json:
    """An operation now; its error shows when it is done."""
    zone = f"zones/{operation.zone}"
    status = operation.status(world.now)
    shown: Json = {
        "kind": "compute#operation",
        "id": operation.id,
        "name": operation.name,
        "zone": link(world, zone),
        "selfLink": link(world, f"{zone}/operations/{operation.name}"),
        "operationType": operation.kind,
        "targetLink": link(world, f"{zone}/instances/{operation.target}"),
        "targetId": operation.target_id,
        "user": operation.user,
        "status": status,
        "progress": 100 if status == "DONE" else 0,
        "insertTime": world.stamp(operation.inserted_at),
    }
    if status != "PENDING":
        shown["startTime"] = world.stamp(operation.starts_at)
    if status == "DONE":
        shown["endTime"] = world.stamp(operation.ends_at)
    if status == "DONE" and operation.error is not None:
        shown["error"] = {"errors": [operation.error.body()]}
        shown["httpErrorStatusCode"] = operation.error.http_status
        shown["httpErrorMessage"] = operation.error.http_message
    return shown


def zone_json(world: World, zone: str) -> Json:
    """A zone."""
    return {
        "kind": "compute#zone",
        "name": zone,
        "status": "UP",
        "region": link(world, f"regions/{region_of(zone)}"),
        "selfLink": link(world, f"zones/{zone}"),
    }


def region_json(world: World, region: str, usage: dict[str, float]) -> Json:
    """A region with its quotas."""
    zones = [zone for zone in world.catalogue.zones if region_of(zone) == region]
    quotas = [
        {"metric": metric, "limit": limit, "usage": usage.get(metric, 0.0)}
        for metric, limit in world.catalogue.quotas.items()
    ]
    return {
        "kind": "compute#region",
        "name": region,
        "status": "UP",
        "zones": [link(world, f"zones/{zone}") for zone in zones],
        "quotas": quotas,
        "selfLink": link(world, f"regions/{region}"),
    }


def type_json(world: World, zone: str, offered: OfferedType) -> Json:
    """A machine type of a zone."""
    return {
        "kind": "compute#machineType",
        "name": offered.name,
        "guestCpus": offered.cpus,
        "memoryMb": offered.memory_mb,
        "zone": zone,
        "selfLink": link(world, f"zones/{zone}/machineTypes/{offered.name}"),
    }


def image_json(image: OfferedImage) -> Json:
    """A boot image."""
    return {
        "kind": "compute#image",
        "name": image.name,
        "family": image.family,
        "status": "READY",
        "architecture": "X86_64",
        "diskSizeGb": str(image.disk_gb),
        "selfLink": f"{_ROOT}/projects/{image.project}/global/images/{image.name}",
    }


def project_json(world: World) -> Json:
    """The project."""
    project = world.catalogue.project
    return {
        "kind": "compute#project",
        "name": project,
        "defaultServiceAccount": "123456789012-compute@developer.gserviceaccount.com",
        "commonInstanceMetadata": {"kind": "compute#metadata", "fingerprint": fingerprint([])},
        "selfLink": f"{_ROOT}/projects/{project}",
    }
