"""What the controller tells `ironcliw status`: one small file, by whose age it is known to live."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from cluster.control.snapshot import Snapshot

REPORT_FILE = "controller.json"
"""In the state directory."""
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Worker:
    """A machine of the cluster.

    Attributes:
        name: Its name.
        zone: Where it is.
        status: By GCE.
        node: `joined`, `draining`, `none`, or `unknown` while the head cannot be reached.
        idle_seconds: Since it had work last; None where no node is known.
    """

    name: str
    zone: str
    status: str
    node: str
    idle_seconds: float | None

    def __str__(self) -> str:
        node = {"none": "not joined", "unknown": "the head cannot be asked"}.get(
            self.node, self.node
        )
        idle = f", idle for {self.idle_seconds:.0f} s" if self.idle_seconds else ""
        return f"{self.name} ({self.zone}): {self.status}, {node}{idle}"


@dataclass(frozen=True, slots=True)
class ControllerReport:
    """The last word of the controller.

    Attributes:
        at: By this machine's clock; aware.
        workers: None: the cloud could not be asked.
        reaches_head: Whether the head answered.
        cloud_error: Why the cloud does not answer, and what to do; empty: it does.
        head_error: The same of the head.
    """

    at: datetime
    workers: Sequence[Worker] | None
    reaches_head: bool
    cloud_error: str = ""
    head_error: str = ""


def make_report(
    seen: Snapshot, at: datetime, *, cloud_error: str = "", head_error: str = ""
) -> ControllerReport:
    """What was seen, and why no more was, as a report."""
    nodes = None if seen.nodes is None else {node.name: node for node in seen.nodes}
    if seen.vms is None:
        return ControllerReport(at, None, nodes is not None, cloud_error, head_error)
    workers = []
    for vm in seen.vms:
        node = None if nodes is None else nodes.get(vm.name)
        state = "unknown" if nodes is None else "none"
        if node is not None:
            state = "draining" if node.is_draining else "joined"
        idle = None if node is None else node.idle_seconds
        workers.append(Worker(vm.name, vm.zone, vm.status.value, state, idle))
    return ControllerReport(at, workers, nodes is not None, cloud_error, head_error)


def write_report(folder: Path, report: ControllerReport) -> None:
    """Keep it in the state directory, in one step."""
    document = {**asdict(report), "at": report.at.isoformat(), "format_version": FORMAT_VERSION}
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{REPORT_FILE}.new"
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(folder / REPORT_FILE)


def read_report(folder: Path) -> ControllerReport | None:
    """The last report; None where there is none, or none that this release understands."""
    try:
        found = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        if found["format_version"] != FORMAT_VERSION:
            return None
        workers = found["workers"]
        return ControllerReport(
            at=datetime.fromisoformat(found["at"]),
            workers=None if workers is None else [Worker(**one) for one in workers],
            reaches_head=bool(found["reaches_head"]),
            # an earlier release writes none
            cloud_error=str(found.get("cloud_error", "")),
            head_error=str(found.get("head_error", "")),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
