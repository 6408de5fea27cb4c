"""Workflows on a real head: they go on after each thing that can be killed was killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import psutil
import pytest

from cluster.head.processes import tagged_processes
from ironcliw.client import Client
from ironcliw.schemas.workflows import WorkflowView
from tests.integration.conftest import ROOT, Head
from tests.integration.test_head import session_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

MODULES = [
    "tests.integration.workflow_steps",
    "actors.examples.knowledge",
    "actors.examples.documents",
]


@pytest.fixture(scope="module")
def workflow_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    head = Head(
        tmp_path_factory.mktemp("workflows"),
        IRONCLIW_ACTORS__MODULES=json.dumps(MODULES),
        # of a model that answers at once: what it writes is of no interest here
        IRONCLIW_MODELS__WRITER__SOURCE="fake:300?text=Run-ironcliw-down",
        IRONCLIW_MODELS__WRITER__TASK="generation",
    )
    result = head.run("up")
    assert result.returncode == 0, result.stderr
    yield head
    session = session_of(head)
    stopped = head.run("down")
    assert stopped.returncode == 0, stopped.stderr
    assert tagged_processes(session) == [], "`down` leaves no process"
    head.remove()


@pytest.fixture
def client(workflow_head: Head) -> Iterator[Client]:
    with Client(base_url=workflow_head.url, timeout=60) as client:
        yield client


def definition(folder: Path, middle: str = "tests.wait") -> dict[str, Any]:
    at = {"folder": str(folder)}
    return {
        "name": "three",
        "steps": {
            "first": {"function": "tests.note", "with": at},
            "middle": {"function": middle, "with": at, "after": ["first"]},
            "last": {
                "function": "tests.note",
                "with": {**at, "text": "${steps.first} ${steps.middle}"},
            },
        },
    }


def trace(folder: Path) -> list[dict[str, Any]]:
    path = folder / "trace.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def begun(folder: Path, step: str, times: int = 1) -> dict[str, Any]:
    """Wait until a step has begun so often; the line that it left last."""

    def lines() -> list[dict[str, Any]]:
        return [line for line in trace(folder) if line["step"] == step]

    wait_for(lambda: len(lines()) >= times, 90)
    return lines()[-1]


def finish(client: Client, folder: Path, workflow_id: str) -> WorkflowView:
    (folder / "gate").touch()
    return client.wait_for_workflow(workflow_id, seconds=120)


def counts(folder: Path) -> Counter[str]:
    return Counter(line["step"] for line in trace(folder))


def control_process(head: Head) -> psutil.Process:
    found: list[psutil.Process] = []

    def look() -> bool:
        for process in tagged_processes(session_of(head)):
            # one that has just ended has no command line
            with contextlib.suppress(psutil.Error):
                if "ray::Control" in " ".join(process.cmdline()):
                    found.append(process)
        return bool(found)

    wait_for(look, 60)
    return found[-1]


def test_three_steps_by_http(client: Client, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    submitted = client.submit_workflow(definition(tmp_path), key="three-steps")
    done = client.wait_for_workflow(submitted.id, seconds=60)
    assert (done.status, done.output) == ("completed", "first passed")
    assert counts(tmp_path) == {"first": 1, "middle": 1, "last": 1}
    assert client.submit_workflow(definition(tmp_path), key="three-steps").id == done.id


def test_a_killed_worker_costs_an_attempt_and_no_step(client: Client, tmp_path: Path) -> None:
    submitted = client.submit_workflow(definition(tmp_path))
    os.kill(begun(tmp_path, "middle")["pid"], signal.SIGKILL)
    begun(tmp_path, "middle", 2)
    done = finish(client, tmp_path, submitted.id)
    assert (done.status, done.output) == ("completed", "first passed")
    assert counts(tmp_path) == {"first": 1, "middle": 2, "last": 1}
    assert len({line["key"] for line in trace(tmp_path) if line["step"] == "middle"}) == 1


def test_a_killed_control_actor_goes_on_where_it_was(
    workflow_head: Head, client: Client, tmp_path: Path
) -> None:
    submitted = client.submit_workflow(definition(tmp_path))
    begun(tmp_path, "middle")
    os.kill(control_process(workflow_head).pid, signal.SIGKILL)
    # asked at once: the link waits until it is back
    assert client.workflow(submitted.id).status == "running"
    begun(tmp_path, "middle", 2)
    done = finish(client, tmp_path, submitted.id)
    assert (done.status, done.output) == ("completed", "first passed")
    assert counts(tmp_path) == {"first": 1, "middle": 2, "last": 1}


def test_what_may_not_run_twice_waits_for_its_user(
    workflow_head: Head, client: Client, tmp_path: Path
) -> None:
    submitted = client.submit_workflow(definition(tmp_path, "tests.wait_once"))
    os.kill(begun(tmp_path, "middle")["pid"], signal.SIGKILL)
    stands = client.wait_for_workflow(submitted.id, seconds=60)
    assert stands.status == "uncertain"
    shown = workflow_head.run("workflow", "show", submitted.id)
    assert "uncertain" in shown.stdout, shown.stderr
    skipped = workflow_head.run("workflow", "skip", submitted.id, "middle", "--value", '"by hand"')
    assert skipped.returncode == 0, skipped.stderr
    done = client.wait_for_workflow(submitted.id, seconds=60)
    assert (done.status, done.output) == ("completed", "first by hand")
    assert counts(tmp_path) == {"first": 1, "middle": 1, "last": 1}


def test_a_killed_head_goes_on_when_it_is_started_again(
    workflow_head: Head, client: Client, tmp_path: Path
) -> None:
    submitted = client.submit_workflow(definition(tmp_path))
    begun(tmp_path, "middle")
    for process in tagged_processes(session_of(workflow_head)):
        with contextlib.suppress(psutil.Error):
            process.kill()
    started = workflow_head.run("up")
    assert started.returncode == 0, started.stderr
    begun(tmp_path, "middle", 2)
    done = finish(client, tmp_path, submitted.id)
    assert (done.status, done.output) == ("completed", "first passed")
    assert counts(tmp_path) == {"first": 1, "middle": 2, "last": 1}


def test_a_cancelled_step_loses_its_process(client: Client, tmp_path: Path) -> None:
    submitted = client.submit_workflow(definition(tmp_path))
    pid = begun(tmp_path, "middle")["pid"]
    client.cancel_workflow(submitted.id)
    assert client.wait_for_workflow(submitted.id, seconds=60).status == "cancelled"
    wait_for(lambda: not psutil.pid_exists(pid))


def test_an_error_of_a_function_is_told_with_its_place(client: Client, tmp_path: Path) -> None:
    steps = {"one": {"function": "tests.fail", "with": {"folder": str(tmp_path)}}}
    submitted = client.submit_workflow({"name": "fails", "steps": steps})
    failed = client.wait_for_workflow(submitted.id, seconds=60)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.message.startswith("tests.fail raised KeyError: ")
    assert "workflow_steps.py" in failed.error.message


def test_a_large_result_travels_by_reference(
    workflow_head: Head, client: Client, tmp_path: Path
) -> None:
    steps = {
        "numbers": {"function": "tests.large", "with": {"size": 100_000}},
        "sum": {"function": "tests.total", "with": {"numbers": "${steps.numbers}"}},
    }
    submitted = client.submit_workflow({"name": "large", "steps": steps, "output": "${steps.sum}"})
    done = client.wait_for_workflow(submitted.id, seconds=60)
    assert (done.status, done.output) == ("completed", sum(range(100_000))), done.error
    [kept] = (workflow_head.state / "results" / done.id).iterdir()
    assert kept.stat().st_size > 500_000


def test_submit_and_follow_on_the_command_line_and_draw(
    workflow_head: Head, tmp_path: Path
) -> None:
    (tmp_path / "gate").touch()
    file = tmp_path / "three.yaml"
    file.write_text(json.dumps(definition(tmp_path)))
    followed = workflow_head.run("workflow", "submit", str(file), "--follow")
    assert followed.returncode == 0, followed.stderr
    assert "step_completed last" in followed.stdout
    *_, last, output = followed.stdout.splitlines()
    workflow_id, status = last.split()[-2:]
    assert status == "completed"
    assert output.startswith("output: ")
    rows = workflow_head.json("workflow", "list", "--status", "completed")
    assert workflow_id in {row["id"] for row in rows}
    drawn = tmp_path / "run.svg"
    assert workflow_head.run("workflow", "show", workflow_id, "--svg", str(drawn)).returncode == 0
    assert "middle" in "".join(ElementTree.parse(drawn).getroot().itertext())


def test_a_wrong_file_is_named_with_its_line(workflow_head: Head, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("name: wrong\nsteps:\n  one:\n    function: os.system\n    afer: [two]\n")
    result = workflow_head.run("workflow", "submit", str(file))
    assert result.returncode == 4
    assert "wrong.yaml:5: " in result.stderr, result.stderr


def test_the_answer_example(workflow_head: Head, client: Client, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").write_text(
        "`ironcliw down` stops everything that `up` started.\n\nBananas are yellow.\n\n"
        "The budget caps what the cloud may cost in a month."
    )
    result = workflow_head.run(
        *("workflow", "submit", "actors/examples/answer.yaml", "--follow", "--json"),
        *("--input", "question=How do I stop everything?", "--input", f"folder={tmp_path}/texts"),
        *("--input", "model=writer", "--input", "top_k=2"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    [done] = client.workflows(name="answer", limit=1)
    output = client.workflow(done.id).output
    assert "stops everything" in output["passages"][0]["text"]
    assert len(output["passages"]) == 2
    assert output["answer"].startswith("Run-ironcliw")


def test_the_documents_example(workflow_head: Head, client: Client, tmp_path: Path) -> None:
    source, target = tmp_path / "documents.jsonl", tmp_path / "vectors.jsonl"
    source.write_text("".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(70)))
    result = workflow_head.run(
        *("workflow", "submit", "actors/examples/documents.yaml", "--follow"),
        *("--input", f"source={source}", "--input", f"target={target}", "--input", "batch=16"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["text"] for row in rows] == [f"document {n}" for n in range(70)]
    assert {len(row["vector"]) for row in rows} == {384}
    [done] = client.workflows(name="documents", limit=1)
    vectors = next(step for step in client.workflow(done.id).steps if step.name == "vectors")
    assert (vectors.items, vectors.items_done) == (5, 5)


def test_metrics_count_attempts_and_workflows(workflow_head: Head) -> None:
    wanted = (
        "ray_ironcliw_workflow_attempts_total",
        "ray_ironcliw_workflow_attempt_seconds_bucket",
        "ray_ironcliw_workflows{",
        "ray_ironcliw_journal_commits_total",
    )

    def exported() -> bool:
        text = httpx.get(workflow_head.url + "/metrics", timeout=10).text
        return all(name in text for name in wanted)

    wait_for(exported, 60)


def test_a_module_that_cannot_be_imported_stops_the_start(tmp_path: Path) -> None:
    head = Head(
        tmp_path,
        IRONCLIW_ACTORS__MODULES='["no_such_module"]',
        IRONCLIW_SERVE__PINNED_MODELS="[]",
    )
    result = head.run("up")
    assert result.returncode == 1
    assert "setting actors.modules: no_such_module cannot be imported" in result.stderr
    assert head.run("down").returncode == 0
    head.remove()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_nightly_example(workflow_head: Head, client: Client, tmp_path: Path) -> None:
    rows = (ROOT / "train/configs/example.jsonl").read_text().splitlines()[:16]
    for name in ("day", "held-out"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    result = workflow_head.run(
        *("workflow", "submit", "actors/examples/nightly.yaml", "--follow"),
        *("--input", f"data={tmp_path}/day.jsonl", "--input", "run=night-1"),
        *("--input", f"held_out={tmp_path}/held-out.jsonl", "--input", "adapter=night"),
        *("--input", "max_length=128", "--input", "epochs=2"),
        timeout=800,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    [done] = client.workflows(name="nightly", limit=1)
    output = client.workflow(done.id).output
    # measured on the rows that it was trained on: it must be better, and so was published
    assert output["tuned_loss"] < output["base_loss"]
    assert "SmolLM2-135M-Instruct:night@1" in {model.id for model in client.models()}
