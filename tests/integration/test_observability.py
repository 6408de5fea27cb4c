"""Alerts and boards ask for names and labels that a real head's page has."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ironcliw.client import Client
from tests.integration.conftest import Head
from tests.unit.cluster.deploy.expressions import read_expressions, uses
from tests.waiting import wait_for

pytestmark = pytest.mark.cluster
# `serve.metrics.FailoverMetrics` is made where there is a cloud, and `train.shown.gauges` where
# something is trained; this head has neither, `test_expressions` has what is declared. The last are
# counted when something goes wrong.
ELSEWHERE = (
    "ray_ironcliw_attempts_total",
    "ray_ironcliw_failovers_total",
    "ray_ironcliw_spot_",
    "ray_ironcliw_train_",
    "ray_ironcliw_agent_open_circuits",
    "ray_ironcliw_agent_restarts_total",
    "ray_ironcliw_agent_unheard_failures_total",
)


def asked() -> dict[str, set[str]]:
    """Metrics that come through Ray, and all labels by which an expression with them asks."""
    found: dict[str, set[str]] = {}
    for one in read_expressions():
        used = uses(one.text)
        for metric, labels in used.labels.items():
            if metric.startswith("ray_") and not metric.startswith(ELSEWHERE):
                found.setdefault(metric, set()).update(labels | used.grouped | one.shown)
    return found


def exported(head: Head) -> dict[str, set[str]]:
    text = httpx.get(head.url + "/metrics", timeout=20).text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def use_the_service(head: Head) -> None:
    """Twice the same text: the second is found by its content."""
    for _ in range(2):
        texts = {"model": "all-MiniLM-L6-v2", "input": ["a text", "another one"]}
        answer = httpx.post(head.url + "/v1/embeddings", json=texts, timeout=60)
        assert answer.status_code == 200, answer.text
    messages = [{"role": "user", "content": "write"}]
    chat = {"model": "dictation", "messages": messages, "max_tokens": 5}
    answer = httpx.post(head.url + "/v1/chat/completions", json=chat, timeout=60)
    assert answer.status_code == 200, answer.text


WATCHED = """
from actors.agent import Agent, capability

class Watched(Agent):
    @capability("watch")
    async def watch(self, body):
        return body
"""


def use_agents_and_workflows(head: Head, folder: Path) -> None:
    (folder / "watched.py").write_text(WATCHED, encoding="utf-8")
    words = ("watched:Watched", "--name", "watched", "--working-dir", str(folder))
    started = head.run("agents", "start", *words)
    assert started.returncode == 0, started.stderr
    steps = {"one": {"agent": "watch", "with": {"a": 1}}}
    with Client(base_url=head.url) as client:
        submitted = client.submit_workflow({"name": "watched", "steps": steps})
        assert client.wait_for_workflow(submitted.id, seconds=60).status == "completed"
    assert head.run("agents", "stop", "watched").returncode == 0


def test_a_head_exports_what_alerts_and_boards_ask_for(head: Head, tmp_path: Path) -> None:
    wanted = asked()
    assert len(wanted) > 20
    use_the_service(head)
    use_agents_and_workflows(head, tmp_path)
    missing: dict[str, set[str]] = {}

    def complete() -> bool:
        found = exported(head)
        missing.clear()
        missing.update(
            {
                metric: labels - found.get(metric, set()) or {"the metric itself"}
                for metric, labels in wanted.items()
                if metric not in found or not labels <= found[metric]
            }
        )
        return not missing

    try:
        wait_for(complete, 90)
    except AssertionError:
        raise AssertionError(f"not exported: {missing}") from None


def test_ray_lists_its_nodes_where_prometheus_looks(head: Head) -> None:
    folder = Path(head.environment["IRONCLIW_CLUSTER__TEMP_DIR"])
    path = folder / "prom_metrics_service_discovery.json"
    wait_for(path.is_file, 30)
    [targets] = json.loads(path.read_text(encoding="utf-8"))
    assert targets["labels"] == {"job": "ray"}
    assert all(target.startswith("127.0.0.1:") for target in targets["targets"])
