"""What the agents of the VMs have put into the key-value store of the head's GCS."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cluster.vm.head import FORMAT_VERSION, REPORT_NAMESPACE
from ironcliw.errors import ClusterError, NewerFormatError

_RPC_SECONDS = 4.0
_MOST_BYTES = 2**63  # what a column of the store holds, and no network card ever sends
_LONGEST_BOOT = 64  # the same; Linux names a boot in 36 characters


@dataclass(frozen=True, slots=True)
class VmEvent:
    """Something that a VM's agent saw or did, at a time of the VM's clock.

    Kinds: joined, join_failed, never_joined, preempted, mismatched, shutdown, head_gone,
    head_unreachable, drained, drain_refused, drain_failed, hook_done, raylet_stopped, power_off.
    """

    at: datetime
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class VmReport:
    """The last word of a VM.

    Attributes:
        at: when it was written.
        node_id: of Ray; empty before the VM joined.
        boot: changes with every boot, and then `egress_bytes` begins at zero again.
        egress_bytes: sent by the network cards, an upper bound of what is billed.
        events: the last fifty, oldest first.
    """

    name: str
    at: datetime
    node_id: str
    boot: str
    egress_bytes: int
    events: tuple[VmEvent, ...]


@dataclass(frozen=True, slots=True)
class FoundReports:
    """What stands in the store, by name of VM.

    Attributes:
        reports: those that could be read.
        unreadable: why the others could not; one VM must not hide all of them.
    """

    reports: tuple[VmReport, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)


def read_reports(gcs: Any) -> FoundReports:
    """The reports of all VMs, by a client of the GCS; VMs that are gone stay until `forget`.

    Raises:
        ray.exceptions.RayError: the GCS cannot be reached.
    """
    keys = gcs.internal_kv_keys(b"", REPORT_NAMESPACE, timeout=_RPC_SECONDS)
    found = gcs.internal_kv_multi_get(keys, REPORT_NAMESPACE, timeout=_RPC_SECONDS)
    reports, unreadable = [], {}
    for key, value in sorted(found.items()):
        # a key that is no text is no VM's
        with contextlib.suppress(UnicodeDecodeError):
            name = key.decode()
            try:
                reports.append(parse_report(name, value))
            except (ClusterError, NewerFormatError) as error:
                unreadable[name] = error.message
    return FoundReports(tuple(reports), unreadable)


def forget(gcs: Any, name: str) -> None:
    """Drop the report of a VM that is gone."""
    gcs.internal_kv_del(name.encode(), False, REPORT_NAMESPACE, timeout=_RPC_SECONDS)


def parse_report(name: str, value: bytes) -> VmReport:
    """Read one report.

    Raises:
        NewerFormatError: the VM was started by a newer release.
        ClusterError: it is damaged.
    """
    try:
        found = json.loads(value)
        version = int(found["format_version"])
        if version > FORMAT_VERSION:
            raise NewerFormatError(
                f"VM {name} reports in format {version}, and this release reads {FORMAT_VERSION} "
                "at most: a newer one has started it; upgrade the head"
            )
        sent = int(found["egress_bytes"])
        if not 0 <= sent < _MOST_BYTES:
            raise ValueError(f"egress_bytes is {sent}")
        boot = str(found["boot"])
        if len(boot) > _LONGEST_BOOT:
            raise ValueError(f"boot has {len(boot)} characters")
        return VmReport(
            name=name,
            at=_time(found["at"]),
            node_id=str(found["node_id"]),
            boot=boot,
            egress_bytes=sent,
            events=tuple(
                VmEvent(_time(e["at"]), str(e["kind"]), str(e["message"])) for e in found["events"]
            ),
        )
    # a time beyond the calendar is an OverflowError, or the system's OSError
    except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
        raise ClusterError(
            f"the report of VM {name} is damaged ({error!r}): delete the VM"
        ) from error


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
