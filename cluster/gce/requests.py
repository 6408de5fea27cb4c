"""Our words for a machine and Compute Engine's, in both directions; nothing is sent."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cluster.gce.errors import GceError
from cluster.machines import DISK_TYPE, METADATA_VALUE_BYTES, Market, Vm, VmRequest, VmStatus
from cluster.vm.lifecycle import DEFAULT_NOTICE_SECONDS, NOTICE_ATTRIBUTE

if TYPE_CHECKING:
    from google.cloud import compute_v1

# https://cloud.google.com/compute/docs/naming-resources, and .../docs/labeling-resources; letters
# of other scripts, which labels may have, are left out
_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE = re.compile(r"[-_a-z0-9]{0,63}")
# as METADATA_VALUE_BYTES, of all attributes together
_METADATA_BYTES = 512 * 1024
# by roles, not by scopes, is an account limited; Google's own advice
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"

# states of newer releases of the API, as the ones that everybody knows
_STATUS = {
    "PENDING": VmStatus.PROVISIONING,
    "PENDING_STOP": VmStatus.STOPPING,
    "DEPROVISIONING": VmStatus.STOPPING,
    "STOPPED": VmStatus.TERMINATED,
    **{status.value: status for status in VmStatus},
}


@dataclass(frozen=True, slots=True)
class Preemption:
    """GCE took a machine back at that time (aware, UTC)."""

    name: str
    zone: str
    at: datetime


def to_instance(request: VmRequest) -> compute_v1.Instance:
    """The body of an insert.

    A notice of more than `DEFAULT_NOTICE_SECONDS` is asked for; a shorter one comes by itself.

    Raises:
        GceError: (invalid) a name, label or attribute breaks a rule of GCE.
    """
    from google.cloud import compute_v1

    _check(request)
    zone = f"zones/{request.zone}"
    items = [compute_v1.Items(key=key, value=value) for key, value in request.metadata.items()]
    instance = compute_v1.Instance(
        name=request.name,
        machine_type=f"{zone}/machineTypes/{request.machine_type}",
        labels=dict(request.labels),
        metadata=compute_v1.Metadata(items=items),
        scheduling=_scheduling(request),
        disks=[_boot_disk(request)],
        network_interfaces=[_interface(request)],
    )
    if request.service_account:
        account = compute_v1.ServiceAccount(email=request.service_account, scopes=[_SCOPE])
        instance.service_accounts = [account]
    return instance


def asks_for_notice(request: VmRequest) -> bool:
    """Whether the insert holds a preemption notice."""
    return request.market == "spot" and request.notice_seconds > DEFAULT_NOTICE_SECONDS


def without_notice(request: VmRequest) -> VmRequest:
    """The same machine with the notice that comes by itself, for an API that refuses more.

    It is another request, so it has another id; made of the first one, that a crash between the
    two does not make two machines. The agent is told the shorter notice.
    """
    metadata = dict(request.metadata)
    if NOTICE_ATTRIBUTE in metadata:
        metadata[NOTICE_ATTRIBUTE] = str(DEFAULT_NOTICE_SECONDS)
    return replace(
        request,
        metadata=metadata,
        notice_seconds=DEFAULT_NOTICE_SECONDS,
        request_id=str(uuid.uuid5(uuid.UUID(request.request_id), "without notice")),
    )


def to_vm(instance: compute_v1.Instance) -> Vm:
    """A machine as the API lists it.

    A state that nobody knows counts as running: it may work, and it may cost money.
    """
    scheduling = instance.scheduling
    is_spot = scheduling.provisioning_model == "SPOT" or scheduling.preemptible
    market: Market = "spot" if is_spot else "regular"
    interfaces = instance.network_interfaces
    return Vm(
        name=instance.name,
        zone=last_part(instance.zone),
        machine_type=last_part(instance.machine_type),
        market=market,
        status=_STATUS.get(instance.status, VmStatus.RUNNING),
        created_at=to_time(instance.creation_timestamp),
        started_at=_time_or_none(instance.last_start_timestamp),
        stopped_at=_time_or_none(instance.last_stop_timestamp),
        max_run_seconds=scheduling.max_run_duration.seconds or None,
        disk_gb=sum(disk.disk_size_gb for disk in instance.disks),
        labels=dict(instance.labels),
        address=interfaces[0].network_i_p if interfaces else "",
        has_external_address=any(interface.access_configs for interface in interfaces),
        notice_seconds=_notice_seconds(instance),
    )


def to_preemption(operation: compute_v1.Operation) -> Preemption:
    """The preemption that an operation of type `compute.instances.preempted` tells of."""
    return Preemption(
        last_part(operation.target_link), last_part(operation.zone), to_time(operation.insert_time)
    )


def to_time(text: str) -> datetime:
    """A time stamp of the API (RFC 3339), in UTC.

    Raises:
        GceError: (other) it is none.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise GceError(
            f"the API gave {text!r} where a time belongs; is cloud.api_endpoint a Compute API?"
        ) from error


def last_part(url: str) -> str:
    """The name at the end of a resource's URL."""
    return url.rpartition("/")[2]


def _notice_seconds(instance: compute_v1.Instance) -> int:
    """By the attribute that the agent trusts as well; the default where it is none of ours."""
    told = next((one.value for one in instance.metadata.items if one.key == NOTICE_ATTRIBUTE), "")
    seconds = int(told) if re.fullmatch("[0-9]{1,4}", told) else 0
    return seconds or DEFAULT_NOTICE_SECONDS


def _time_or_none(text: str) -> datetime | None:
    return to_time(text) if text else None


def _scheduling(request: VmRequest) -> compute_v1.Scheduling:
    from google.cloud import compute_v1

    scheduling = compute_v1.Scheduling(
        provisioning_model="SPOT" if request.market == "spot" else "STANDARD",
        # stopped, the default, would leave a disk that costs money; and the cloud deletes the
        # machine after the time given, even if nobody of ours lives any more
        instance_termination_action="DELETE",
        max_run_duration=compute_v1.Duration(seconds=request.max_run_seconds),
    )
    if asks_for_notice(request):
        scheduling.preemption_notice_duration = compute_v1.Duration(seconds=request.notice_seconds)
    return scheduling


def _boot_disk(request: VmRequest) -> compute_v1.AttachedDisk:
    from google.cloud import compute_v1

    return compute_v1.AttachedDisk(
        boot=True,
        auto_delete=True,
        initialize_params=compute_v1.AttachedDiskInitializeParams(
            source_image=request.image,
            disk_size_gb=request.disk_gb,
            disk_type=f"zones/{request.zone}/diskTypes/{DISK_TYPE}",
            labels=dict(request.labels),
        ),
    )


def _interface(request: VmRequest) -> compute_v1.NetworkInterface:
    from google.cloud import compute_v1

    interface = compute_v1.NetworkInterface(network=request.network)
    if request.subnetwork:
        interface.subnetwork = request.subnetwork
    if request.external_address:
        interface.access_configs = [
            compute_v1.AccessConfig(name="External NAT", type_="ONE_TO_ONE_NAT")
        ]
    return interface


def _check(request: VmRequest) -> None:
    if not _NAME.fullmatch(request.name):
        raise _invalid(
            f"machine name {request.name!r} must be 1 to 63 lower-case letters, digits and "
            "hyphens, begin with a letter and not end with a hyphen"
        )
    try:
        uuid.UUID(request.request_id)
    except ValueError as error:
        raise _invalid(f"request_id {request.request_id!r} of {request.name} is no UUID") from error
    if request.max_run_seconds < 1:
        raise _invalid(f"max_run_seconds of {request.name} is {request.max_run_seconds}, not > 0")
    for key, value in request.labels.items():
        if not (_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value)):
            raise _invalid(
                f"label {key!r}: {value!r} of {request.name} must be up to 63 lower-case letters, "
                "digits, hyphens and underscores, the key beginning with a letter"
            )
    _check_metadata(request.name, request.metadata)


def _check_metadata(name: str, metadata: Mapping[str, str]) -> None:
    """Sizes only; a message never holds a value, which may be a token."""
    total = 0
    for key, value in metadata.items():
        size = len(value.encode())
        total += len(key.encode()) + size
        if size > METADATA_VALUE_BYTES:
            raise _invalid(
                f"metadata attribute {key!r} of {name} has {size} bytes; at most "
                f"{METADATA_VALUE_BYTES} are allowed: make it smaller"
            )
    if total > _METADATA_BYTES:
        raise _invalid(
            f"the metadata of {name} has {total} bytes; at most {_METADATA_BYTES} are allowed: "
            "make it smaller"
        )


def _invalid(message: str) -> GceError:
    return GceError(message, kind="invalid", code="INVALID_REQUEST")
