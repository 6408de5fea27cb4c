"""The REST routes of the Compute API v1 that a cluster of Spot VMs uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.testing import paging, resources
from cluster.testing.api_errors import ApiError, forbidden, invalid, not_found, storm
from cluster.testing.catalogue import region_of
from cluster.testing.control_plane import ControlPlane
from cluster.testing.faults import UnreachableZone
from cluster.testing.filters import apply_filter
from cluster.testing.launch import quota_usage
from cluster.testing.operations import Operation
from cluster.testing.resources import Json
from cluster.testing.world import World


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to a route: the parts of its path, its query and its body."""

    parts: dict[str, str]
    query: dict[str, str]
    body: Json

    @property
    def request_id(self) -> str | None:
        """Google's key against doing a write twice."""
        return self.query.get("requestId")


_CONSOLE_BYTES = 2**20
"""Google keeps the last megabyte of a serial console."""

Route = Callable[[ControlPlane, Asked], "Json | Operation"]


def dispatch(plane: ControlPlane, verb: str, path: str, query: dict[str, str], body: Json) -> Json:
    """Carry out a request; the world's lock is held.

    Raises:
        ApiError: The HTTP error that it is answered with.
    """
    for wanted, pattern, route in _ROUTES:
        match = pattern.fullmatch(path)
        if match and wanted == verb:
            asked = Asked(match.groupdict(), query, body)
            _check_place(plane.world, asked, path)
            result = route(plane, asked)
            if isinstance(result, Operation):
                return resources.operation_json(plane.world, result)
            return result
    raise ApiError(404, "notFound", f"The fake Compute API has no {verb} {path}.")


def _check_place(world: World, asked: Asked, path: str) -> None:
    project, zone, region = (asked.parts.get(part) for part in ("project", "zone", "region"))
    image = "/global/images/" in path
    if project != world.catalogue.project and not image:
        raise not_found(f"projects/{project}")
    if zone is not None and zone not in world.catalogue.zones:
        raise invalid("zone", zone, "Unknown zone.")
    if region is not None and region not in world.catalogue.regions:
        raise invalid("region", region, "Unknown region.")


def _insert(plane: ControlPlane, asked: Asked) -> Operation:
    return plane.insert(asked.parts["zone"], asked.body, asked.request_id)


def _delete(plane: ControlPlane, asked: Asked) -> Operation:
    zone, name = asked.parts["zone"], asked.parts["name"]
    return plane.end(zone, name, asked.request_id, delete=True)


def _stop(plane: ControlPlane, asked: Asked) -> Operation:
    zone, name = asked.parts["zone"], asked.parts["name"]
    return plane.end(zone, name, asked.request_id, delete=False)


def _set_labels(plane: ControlPlane, asked: Asked) -> Operation:
    return plane.set_labels(asked.parts["zone"], asked.parts["name"], asked.body)


def _set_metadata(plane: ControlPlane, asked: Asked) -> Operation:
    return plane.set_metadata(asked.parts["zone"], asked.parts["name"], asked.body)


def _maintain(plane: ControlPlane, asked: Asked) -> Operation:
    return plane.preempt(asked.parts["zone"], asked.parts["name"])


def _get_instance(plane: ControlPlane, asked: Asked) -> Json:
    instance = plane.world.find(asked.parts["zone"], asked.parts["name"])
    return resources.instance_json(plane.world, instance)


def _serial_port(plane: ControlPlane, asked: Asked) -> Json:
    """A negative start counts from the end; only the first port is written on."""
    instance = plane.world.find(asked.parts["zone"], asked.parts["name"])
    written = plane.world.console(instance) if asked.query.get("port", "1") == "1" else b""
    kept = max(len(written) - _CONSOLE_BYTES, 0)
    start = int(asked.query.get("start", "0"))
    start = min(max(len(written) + start if start < 0 else start, kept), len(written))
    return {
        "kind": "compute#serialPortOutput",
        "contents": written[start:].decode("utf-8", "replace"),
        "start": str(start),
        "next": str(len(written)),
    }


def _get_operation(plane: ControlPlane, asked: Asked) -> Operation:
    zone, name = asked.parts["zone"], asked.parts["name"]
    operation = plane.world.operations.get((zone, name))
    if operation is None:
        project = plane.world.catalogue.project
        raise not_found(f"projects/{project}/zones/{zone}/operations/{name}")
    return operation


def _all(world: World, member: str) -> list[tuple[tuple[str, str], Json]]:
    """All instances or operations with their keys."""
    if member == "instances":
        return [
            (key, resources.instance_json(world, instance))
            for key, instance in sorted(world.instances.items())
        ]
    return [
        (key, resources.operation_json(world, operation))
        for key, operation in sorted(world.operations.items())
    ]


def _filtered(world: World, asked: Asked) -> list[tuple[tuple[str, str], Json]]:
    every = _all(world, asked.parts["member"])
    zone = asked.parts.get("zone")
    here = [item for item in every if zone is None or item[0][0] == zone]
    kept = apply_filter([resource for _, resource in here], asked.query.get("filter", ""))
    identities = {id(resource) for resource in kept}
    return [item for item in here if id(item[1]) in identities]


def _list(plane: ControlPlane, asked: Asked) -> Json:
    world, member = plane.world, asked.parts["member"]
    shown, token = paging.page(_filtered(world, asked), asked.query, world.largest_page)
    answer: Json = {
        "kind": f"compute#{member[:-1]}List",
        "id": f"projects/{world.catalogue.project}/zones/{asked.parts['zone']}/{member}",
    }
    if shown:
        answer["items"] = [resource for _, resource in shown]
    return answer | ({"nextPageToken": token} if token else {})


def _list_aggregated(plane: ControlPlane, asked: Asked) -> Json:
    world, member = plane.world, asked.parts["member"]
    away = []
    for zone in world.catalogue.zones:
        if fault := world.faults.use(UnreachableZone, world.now, zone):
            if not fault.partial and asked.query.get("returnPartialSuccess") != "true":
                raise storm(503)
            away.append(zone)
    items = [item for item in _filtered(world, asked) if item[0][0] not in away]
    shown, token = paging.page(items, asked.query, world.largest_page)
    found = paging.scopes(shown, world.catalogue.zones, member)
    found.update({f"zones/{zone}": paging.unreachable(zone) for zone in away})
    answer: Json = {
        "kind": f"compute#{member[:-1]}AggregatedList",
        "id": f"projects/{world.catalogue.project}/aggregated/{member}",
        "items": found,
    }
    if away:
        answer["unreachables"] = [f"zones/{zone}" for zone in away]
    return answer | ({"nextPageToken": token} if token else {})


def _project(plane: ControlPlane, asked: Asked) -> Json:
    return resources.project_json(plane.world)


def _zones(plane: ControlPlane, asked: Asked) -> Json:
    world = plane.world
    zones = [resources.zone_json(world, zone) for zone in world.catalogue.zones]
    return {"kind": "compute#zoneList", "items": apply_filter(zones, asked.query.get("filter", ""))}


def _zone(plane: ControlPlane, asked: Asked) -> Json:
    return resources.zone_json(plane.world, asked.parts["zone"])


def _region(plane: ControlPlane, asked: Asked) -> Json:
    region = asked.parts["region"]
    return resources.region_json(plane.world, region, quota_usage(plane.world, region))


def _machine_types(plane: ControlPlane, asked: Asked) -> Json:
    world, zone = plane.world, asked.parts["zone"]
    types = [resources.type_json(world, zone, each) for each in world.catalogue.types.values()]
    kept = apply_filter(types, asked.query.get("filter", ""))
    return {"kind": "compute#machineTypeList", "items": kept}


def _machine_type(plane: ControlPlane, asked: Asked) -> Json:
    world, zone, name = plane.world, asked.parts["zone"], asked.parts["name"]
    if name not in world.catalogue.types:
        raise not_found(f"projects/{world.catalogue.project}/zones/{zone}/machineTypes/{name}")
    return resources.type_json(world, zone, world.catalogue.types[name])


def _image(plane: ControlPlane, asked: Asked) -> Json:
    project, name = asked.parts["project"], asked.parts["name"]
    family = asked.parts["family"] is not None
    image = plane.world.catalogue.image(project, name, is_family=family)
    if image is None:
        kind = "family/" if family else ""
        raise not_found(f"projects/{project}/global/images/{kind}{name}")
    return resources.image_json(image)


def _capacity(plane: ControlPlane, asked: Asked) -> Json:
    """The advice API: one recommendation, in the best of the zones that were asked for."""
    world, region = plane.world, asked.parts["region"]
    known = world.catalogue.obtainability
    if known is None:
        path = f"projects/{world.catalogue.project}/regions/{region}"
        raise forbidden("compute.advice.capacity", path)
    wanted = _wanted_zones(asked.body) or [z for z in known if region_of(z) == region]
    best = max(wanted, key=lambda zone: known.get(zone, 0.0))
    shard = {"zone": resources.link(world, f"zones/{best}"), "provisioningModel": "SPOT"}
    scores = {"obtainability": known.get(best, 0.0), "estimatedUptime": "86400s"}
    return {"recommendations": [{"scores": scores, "shards": [shard]}]}


def _wanted_zones(body: Json) -> list[str]:
    policy: dict[str, Any] = body.get("distributionPolicy", {})
    return [str(each["zone"]).rpartition("/")[2] for each in policy.get("zones", [])]


_PROJECT = "/compute/v1/projects/(?P<project>[^/]+)"
_ZONE = _PROJECT + "/zones/(?P<zone>[^/]+)"
_REGION = _PROJECT + "/regions/(?P<region>[^/]+)"
_ONE = _ZONE + "/instances/(?P<name>[^/]+)"

_ROUTES: list[tuple[str, re.Pattern[str], Route]] = [
    (verb, re.compile(path), route)
    for verb, path, route in (
        ("POST", _ZONE + "/instances", _insert),
        ("DELETE", _ONE, _delete),
        ("GET", _ONE, _get_instance),
        ("GET", _ONE + "/serialPort", _serial_port),
        ("POST", _ONE + "/stop", _stop),
        ("POST", _ONE + "/setLabels", _set_labels),
        ("POST", _ONE + "/setMetadata", _set_metadata),
        ("POST", _ONE + "/simulateMaintenanceEvent", _maintain),
        ("GET", _ZONE + "/(?P<member>instances|operations)", _list),
        ("GET", _PROJECT + "/aggregated/(?P<member>instances|operations)", _list_aggregated),
        ("GET", _ZONE + "/operations/(?P<name>[^/]+)", _get_operation),
        ("POST", _ZONE + "/operations/(?P<name>[^/]+)/wait", _get_operation),
        ("GET", _PROJECT, _project),
        ("GET", _PROJECT + "/zones", _zones),
        ("GET", _ZONE, _zone),
        ("GET", _REGION, _region),
        ("GET", _ZONE + "/machineTypes", _machine_types),
        ("GET", _ZONE + "/machineTypes/(?P<name>[^/]+)", _machine_type),
        ("GET", _PROJECT + "/global/images/(?P<family>family/)?(?P<name>[^/]+)", _image),
        ("POST", _REGION + "/advice/capacity", _capacity),
    )
]
