"""What Google accepts as a new VM, and the defaults that it fills in."""

from __future__ import annotations

import copy
import re
from typing import Any

from cluster.testing.api_errors import invalid, not_found
from cluster.testing.catalogue import Catalogue, OfferedImage

# RFC 1035, as the API's message quotes it
_NAME = r"(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)"
_LABEL_KEY = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")
_LABEL_VALUE = re.compile(r"^[a-z0-9_-]{0,63}$")
# https://cloud.google.com/compute/docs/instances/limit-vm-runtime
_RUN_SECONDS = (30, 120 * 24 * 3600)
# the documented values: https://github.com/cloudpilot-ai/karpenter-provider-gcp/pull/563
_NOTICE_SECONDS = (0, 120)
# https://cloud.google.com/compute/docs/metadata/setting-custom-metadata#limitations
_METADATA_VALUE_BYTES = 256 * 1024
_METADATA_BYTES = 512 * 1024


def checked_instance(body: dict[str, Any], zone: str, catalogue: Catalogue) -> dict[str, Any]:
    """A copy of the resource with defaults.

    Raises:
        ApiError: 400 for what breaks a rule, 404 for an image that does not exist.
    """
    resource = copy.deepcopy(body)
    name = resource.get("name", "")
    if not re.fullmatch(_NAME, name):
        raise invalid("resource.name", name, f"Must be a match of regex '{_NAME}'")
    check_labels(resource.get("labels", {}))
    check_metadata(resource.get("metadata", {}))
    _check_type(resource, zone, catalogue)
    _check_disks(resource, catalogue)
    _check_networks(resource, catalogue)
    _fill_scheduling(resource)
    return resource


def check_labels(labels: dict[str, Any]) -> None:
    """Labels are lower-case letters, digits, `_` and `-`, at most 64 of them.

    Raises:
        ApiError: 400, one is something else.
    """
    for key, value in labels.items():
        if not _LABEL_KEY.match(key) or not _LABEL_VALUE.match(str(value)):
            rule = f"Label '{key}'='{value}' violates format constraints."
            raise invalid("resource.labels", "", rule)
    if len(labels) > 64:
        raise invalid("resource.labels", len(labels), "There are at most 64 labels.")


def check_metadata(metadata: dict[str, Any]) -> None:
    """Keys of metadata are unique words; a value has at most 256 KiB, all together 512.

    Raises:
        ApiError: 400, an item is something else.
    """
    items = {str(item.get("key", "")): item for item in metadata.get("items", [])}
    if len(items) < len(metadata.get("items", [])):
        raise invalid("resource.metadata.items.key", "", "Keys must be unique.")
    total = 0
    for key, item in items.items():
        size = len(str(item.get("value", "")).encode())
        total += len(key) + size
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,127}", key):
            raise invalid("resource.metadata.items.key", key, "It has other characters.")
        if size > _METADATA_VALUE_BYTES or total > _METADATA_BYTES:
            rule = f"Metadata size exceeded: {size} bytes, {total} in all."
            raise invalid("resource.metadata.items.value", key, rule)


def _check_type(resource: dict[str, Any], zone: str, catalogue: Catalogue) -> None:
    url = str(resource.get("machineType", ""))
    match = re.search(r"zones/([^/]+)/machineTypes/([^/]+)$", url)
    if match is None:
        raise invalid("resource.machineType", url, "The URL is malformed.")
    if match[1] != zone or match[2] not in catalogue.types:
        rule = f"Machine type with name '{match[2]}' does not exist in zone '{zone}'."
        raise invalid("resource.machineType", url, rule)


def _check_disks(resource: dict[str, Any], catalogue: Catalogue) -> None:
    disks = resource.get("disks") or []
    if not any(disk.get("boot") for disk in disks):
        raise invalid("resource.disks", "", "At least one disk must be a boot disk.")
    for disk in disks:
        parameters = disk.get("initializeParams", {})
        image = find_image(str(parameters.get("sourceImage", "")), catalogue)
        size = int(parameters.get("diskSizeGb", image.disk_gb))
        if size < image.disk_gb:
            rule = f"Requested disk size cannot be smaller than the image size ({image.disk_gb} GB)"
            raise invalid("resource.disks[0].initializeParams.diskSizeGb", size, rule)
        parameters["diskSizeGb"] = disk["diskSizeGb"] = str(size)


def find_image(url: str, catalogue: Catalogue) -> OfferedImage:
    """The image of a URL, given by its name or by its family.

    Raises:
        ApiError: 400, it is no URL of an image; 404, there is none.
    """
    match = re.search(r"(?:projects/([^/]+)/)?global/images/(family/)?([^/]+)$", url)
    if match is None:
        raise invalid(
            "resource.disks[0].initializeParams.sourceImage", url, "The URL is malformed."
        )
    project = match[1] or catalogue.project
    image = catalogue.image(project, match[3], is_family=bool(match[2]))
    if image is None:
        raise not_found(f"projects/{project}/global/images/{match[2] or ''}{match[3]}")
    return image


def _check_networks(resource: dict[str, Any], catalogue: Catalogue) -> None:
    interfaces = resource.get("networkInterfaces") or []
    if not interfaces:
        rule = "At least one network interface is required."
        raise invalid("resource.networkInterfaces", "", rule)
    for interface in interfaces:
        url = str(interface.get("network", "global/networks/default"))
        if url.rpartition("/")[2] not in catalogue.networks:
            rule = "The referenced network resource cannot be found."
            raise invalid("resource.networkInterfaces[0].network", url, rule)


def _fill_scheduling(resource: dict[str, Any]) -> None:
    scheduling = resource.setdefault("scheduling", {})
    spot = scheduling.get("provisioningModel") == "SPOT" or scheduling.get("preemptible", False)
    if spot and scheduling.get("automaticRestart"):
        rule = "Scheduling must have automaticRestart be false when preemptible is true."
        raise invalid("resource.scheduling", "", rule)
    _check_seconds(scheduling, "maxRunDuration", _RUN_SECONDS)
    notice = int(scheduling.get("preemptionNoticeDuration", {}).get("seconds", 0))
    if notice not in _NOTICE_SECONDS or (notice and not spot):
        rule = f"Must be one of {_NOTICE_SECONDS}, and the instance a Spot VM."
        raise invalid("resource.scheduling.preemptionNoticeDuration", notice, rule)
    scheduling["provisioningModel"] = "SPOT" if spot else "STANDARD"
    scheduling["preemptible"] = spot
    scheduling["automaticRestart"] = not spot
    scheduling["onHostMaintenance"] = "TERMINATE" if spot else "MIGRATE"
    if spot:
        scheduling.setdefault("instanceTerminationAction", "STOP")


def _check_seconds(scheduling: dict[str, Any], field: str, bounds: tuple[int, int]) -> None:
    if field not in scheduling:
        return
    seconds = int(scheduling[field].get("seconds", 0))
    if not bounds[0] <= seconds <= bounds[1]:
        rule = f"Must be from {bounds[0]} to {bounds[1]} seconds."
        raise invalid(f"resource.scheduling.{field}", seconds, rule)
