"""Alerts and boards ask for what is exported: every name, every label, and values of a fixed set.

The names of Ray itself, and its prefix, are compared with a real head's page in
`tests/integration/test_observability.py`.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import cluster.events
from actors import metrics as actor_metrics
from actors.agents.figures import Outcome
from actors.registry import AgentStatus
from cluster.control.metrics import METRICS_FILE, metrics_text
from cluster.control.snapshot import Node, Snapshot
from cluster.control.state import SETTLE_SECONDS
from cluster.machines import Vm, VmStatus
from cluster.money.budget import day_of, month_of
from cluster.money.ledger import Standing
from ironcliw.schemas.workflows import WorkflowStatus
from ironcliw.setting_sections import CloudSettings
from ironcliw.settings import Settings
from serve import metrics as serve_metrics
from train.shown import gauges

from .expressions import BOARDS, FOLDER, RULES, Expression, read_expressions, uses

NOW = datetime(2026, 1, 5, tzinfo=UTC)
DELETION_SECONDS = 60
# Of others: https://prometheus.io/docs/concepts/jobs_instances, and the textfile collector of
# https://github.com/prometheus/node_exporter (collector/textfile.go)
OTHERS = {"up": {"job", "instance"}, "node_textfile_mtime_seconds": {"file"}}
# Of Ray: labels of its node and Serve metrics as a head exports them, see the integration test
OF_RAY = {"ray_node_": {"ip"}, "ray_serve_deployment_": {"deployment", "application"}}
KINDS = set(re.findall(r"\w+", (cluster.events.__doc__ or "").partition("Kinds in use:")[2]))
VALUES: dict[str, set[str]] = {
    "status": {status.value for status in (*VmStatus, *AgentStatus)}
    | {"5..", *get_args(WorkflowStatus)},
    "outcome": set(get_args(Outcome)),
    "capability": {""},  # of messages that reached none
    "kind": KINDS,
    "period": {"day", "month"},
    "state": {"working", "draining"},
    "job": {"ray", "ironcliw-service", "ironcliw-cluster"},
    "file": {r".*/cluster\.prom"},
}
EXPRESSIONS = read_expressions()
Exported = dict[str, set[str]]


def of_the_controller() -> Exported:
    """What `cluster.prom` holds when everything is known."""
    vm = Vm(
        "ironcliw-1", "us-central1-a", "e2-highmem-4", "spot", VmStatus.RUNNING, NOW, None, None,
        3600, 50, {}, "10.0.0.2", False,
    )  # fmt: skip
    seen = Snapshot(NOW, vms=[vm], nodes=[Node("n", "ironcliw-1", False, 0.0)])
    standings = [Standing(window, 25.0, 1.0, 2.0) for window in (day_of(NOW), month_of(NOW))]
    text = metrics_text(seen, standings, {"z": "why"}, NOW, zones=4, events={"launch": 2})
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of_the_service(monkeypatch: pytest.MonkeyPatch) -> Exported:
    """What ingress, control actor and training declare, as Ray names it, in parts."""
    made: Exported = {}

    def declare(kind: str) -> Any:
        def metric(name: str, about: str, *rest: Any) -> None:
            labels = set(rest[-1]) if rest else set()
            if kind == "Histogram":
                made[f"ray_{name}_bucket"] = labels | {"le"}
                made[f"ray_{name}_count"] = made[f"ray_{name}_sum"] = labels
            else:
                made[f"ray_{name}"] = labels

        return metric

    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(serve_metrics, kind, declare(kind))
        monkeypatch.setattr(actor_metrics, kind, declare(kind))
    serve_metrics.IngressMetrics()
    serve_metrics.FailoverMetrics()
    actor_metrics.WorkflowMetrics()
    actor_metrics.AgentMetrics()
    monkeypatch.setattr(gauges, "Gauge", declare("Gauge"))
    gauges.RunGauges("run")
    return made


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Exported:
    return {**of_the_controller(), **of_the_service(monkeypatch), **OTHERS}


def labels_of(metric: str, exported: Exported) -> set[str] | None:
    """Labels of a metric; None: nobody exports it."""
    if metric in exported:
        return exported[metric]
    return next((found for prefix, found in OF_RAY.items() if metric.startswith(prefix)), None)


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda one: one.place)
def test_an_expression_asks_for_what_is_exported(
    expression: Expression, exported: Exported
) -> None:
    used = uses(expression.text)
    assert used.labels, "no metric is in it"
    everywhere: set[str] = set()
    for metric, matched in used.labels.items():
        known = labels_of(metric, exported)
        assert known is not None, f"nobody exports {metric}"
        assert matched <= known, f"{metric} has the labels {sorted(known)}"
        everywhere |= known
    assert used.grouped <= everywhere
    # an aggregation leaves the labels that it groups by, and no other
    left = (
        used.grouped if re.search(r"\b(sum|max|min|avg|count)\b", expression.text) else everywhere
    )
    assert expression.shown <= left
    for metric, label, _, value in used.values:
        assert value in VALUES[label], f"{metric} has no {label} {value!r}"


def test_there_are_alerts_for_what_must_not_be_missed() -> None:
    alerts = {one.place.removeprefix("alert ") for one in EXPRESSIONS if "alert " in one.place}
    assert alerts >= {
        "BudgetNearlySpent",
        "BudgetSpent",
        "NoCapacityAnywhere",
        "WorkerNeverJoined",
        "ManyPreemptions",
        "ControllerDown",
        "LedgerStale",
        "ServiceErrors",
        "QueueLong",
        "WorkflowsUncertain",
        "DeadLetters",
        "AgentGivenUp",
    }
    assert len(EXPRESSIONS) > 50


@pytest.mark.parametrize(
    "broken",
    [
        "sum(rate(ironcliw_http_requests_total[5m]))",  # without Ray's prefix
        "sum by (modle) (ray_ironcliw_queue_tokens)",
        'ironcliw_cluster_machines{status="RUNING"}',
        'ironcliw_cluster_nodes{status="RUNNING"}',
        "ironcliw_cluster_spend_usd",
        "ray_ironcliw_queue_seconds_buckets",
    ],
)
def test_a_wrong_name_is_found(broken: str, exported: Exported) -> None:
    with pytest.raises((AssertionError, KeyError)):
        test_an_expression_asks_for_what_is_exported(Expression("here", broken), exported)


def test_every_alert_says_what_to_do() -> None:
    rules = yaml.safe_load((FOLDER / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")


def rules_by_alert() -> dict[str, Any]:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}


def test_a_machine_that_may_still_join_is_no_alarm() -> None:
    """The longest default is given, and the time until the controller has deleted it."""
    waits = rules_by_alert()["WorkerNeverJoined"]["for"]
    assert waits.endswith("m")
    longest = max(CloudSettings(image_is_baked=baked).join_seconds for baked in (True, False))
    assert float(waits.removesuffix("m")) * 60 >= longest + SETTLE_SECONDS + DELETION_SECONDS


def test_logs_that_are_named_are_those_of_the_side_processes() -> None:
    logs = {f"logs/{name}.log" for name in Settings().cluster.side_modules}
    actions = [rule["annotations"]["action"] for rule in rules_by_alert().values()]
    named = {word for action in actions for word in re.findall(r"[\w./]+\.log\b", action)}
    assert named == logs


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.name)
def test_a_board_is_whole(path: Path) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        spot = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(spot["x"], spot["x"] + spot["w"])
            for y in range(spot["y"], spot["y"] + spot["h"])
        }
        assert spot["x"] + spot["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells


def test_what_is_scraped_is_there() -> None:
    config = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert set(jobs) == VALUES["job"]
    for name in config["rule_files"]:
        assert (FOLDER / "prometheus" / name).is_file()
    settings = Settings()
    [discovery] = jobs["ray"]["file_sd_configs"][0]["files"]
    folder = settings.ray_temp_dir
    assert discovery == str(
        folder.parent.with_name("ironcliw-UID")
        / folder.name
        / "prom_metrics_service_discovery.json"
    )
    [target] = jobs["ironcliw-service"]["static_configs"][0]["targets"]
    assert target == f"{settings.serve.host}:{settings.serve.port}"
    text = (FOLDER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    assert f"--collector.textfile.directory=$HOME/.ironcliw/{METRICS_FILE.parent}" in text
