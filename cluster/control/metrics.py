"""The controller's metrics as a text file for Prometheus.

A file rather than a port: the textfile collector of node_exporter reads it, and nothing listens.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from cluster.control.snapshot import Snapshot
from cluster.money.ledger import Standing

METRICS_FILE = Path("metrics") / "cluster.prom"
"""Below the state directory."""

Sample = tuple[Mapping[str, str], float]


def metrics_text(
    seen: Snapshot,
    standings: Sequence[Standing],
    resting: Mapping[str, str],
    listed_at: datetime | None,
    *,
    zones: int,
    events: Mapping[str, int],
) -> str:
    """The file's text. What is not known now is absent, never zero.

    Args:
        seen: By the controller.
        standings: Of the day and the month.
        resting: Why each resting zone rests.
        listed_at: When the cloud's machines were last listed.
        zones: How many zones the settings name.
        events: How many events of each kind the last day had.
    """
    lines: list[str] = []
    gauges: list[tuple[str, str, list[Sample]]] = [
        *_gauges(seen, standings, resting, listed_at),
        ("zones", "Zones that may be asked for machines.", [({}, float(zones))]),
        (
            "events_day",
            "Events of the last 24 hours, by kind.",
            [({"kind": kind}, float(count)) for kind, count in sorted(events.items())],
        ),
    ]
    for name, about, samples in gauges:
        full = f"ironcliw_cluster_{name}"
        lines += [f"# HELP {full} {about}", f"# TYPE {full} gauge"]
        lines += [f"{full}{_labels(labels)} {value!r}" for labels, value in samples]
    return "\n".join([*lines, ""])


def _gauges(
    seen: Snapshot,
    standings: Sequence[Standing],
    resting: Mapping[str, str],
    listed_at: datetime | None,
) -> Iterator[tuple[str, str, list[Sample]]]:
    if seen.vms is not None:
        counts = Counter((vm.zone, vm.status.value) for vm in seen.vms)
        yield (
            "machines",
            "Machines of the cluster, by zone and state.",
            [({"zone": z, "status": s}, float(n)) for (z, s), n in sorted(counts.items())],
        )
    if seen.nodes is not None:
        draining = sum(node.is_draining for node in seen.nodes)
        working = len(seen.nodes) - draining
        samples: list[Sample] = [
            ({"state": "working"}, float(working)),
            ({"state": "draining"}, float(draining)),
        ]
        yield "nodes", "Workers that have joined Ray.", samples
        yield "demanded_workers", "Workers demanded by the controller.", [({}, seen.demanded * 1.0)]
    yield "resting_zones", "Zones that are not asked for machines now.", [({}, float(len(resting)))]
    if listed_at is not None:
        at: list[Sample] = [({}, listed_at.timestamp())]
        yield "listed_timestamp_seconds", "When the cloud's machines were last listed.", at
    money = {
        "spent_usd": [(one, one.spent) for one in standings],
        "committed_usd": [(one, one.committed) for one in standings],
        "cap_usd": [(one, one.cap) for one in standings if one.cap is not None],
    }
    for name, values in money.items():
        about = f"US dollars of the current day and month: {name.removesuffix('_usd')}."
        yield name, about, [({"period": one.window.period}, value) for one, value in values]


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def write_metrics(folder: Path, text: str) -> None:
    """Write the file in one step: a reader sees the old text or the new one."""
    path = folder / METRICS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    # the collector reads files that end in .prom, and no other
    temporary = path.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
