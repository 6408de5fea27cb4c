"""The head through the command line: up, status, jobs, a killed replica, down."""

from __future__ import annotations

import contextlib
import shlex
import signal
import socket
import subprocess
import threading
from pathlib import Path

import httpx
import numpy as np
import openai
import psutil
import pytest

from cluster.head.processes import tagged_processes
from cluster.head.record import HeadRecord
from tests.integration.conftest import IRONCLIW, ROOT, Head
from tests.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

MINILM = "all-MiniLM-L6-v2"


def session_of(head: Head) -> str:
    record = HeadRecord.read(head.state / "head.json")
    assert record is not None
    return record.session


def process_named(head: Head, part: str) -> psutil.Process | None:
    for process in tagged_processes(session_of(head)):
        # one that has just ended has no command line
        with contextlib.suppress(psutil.Error):
            if part in " ".join(process.cmdline()):
                return process
    return None


def test_the_official_client_embeds_with_the_bundled_model(head: Head) -> None:
    with openai.OpenAI(base_url=head.url + "/v1", api_key="none") as client:
        texts = ["turn off the lights", "switch off the lamp", "what is the capital of France"]
        answer = client.embeddings.create(model=MINILM, input=texts)
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors.shape == (3, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)
    assert vectors[0] @ vectors[1] > 0.6 > vectors[0] @ vectors[2]
    assert answer.usage.prompt_tokens == 6 + 6 + 8


def test_status_shows_the_node_and_the_pinned_model(head: Head) -> None:
    status = head.json("status")
    assert [node["head"] for node in status["nodes"]] == [True]
    [minilm] = [row for row in status["models"] if row["id"] == MINILM]
    assert minilm["pinned"] is True
    assert minilm["bytes"] > 20_000_000
    assert status["degraded"] == []
    assert "nothing is degraded" in head.run("status").stdout


def test_embed_and_models_on_the_command_line(head: Head) -> None:
    result = head.run("embed", "hello", "world", "--json")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2
    assert MINILM in head.run("models").stdout


def test_a_second_up_joins_the_first(head: Head) -> None:
    session = session_of(head)
    result = head.run("up")
    assert result.returncode == 0, result.stderr
    assert "already running" in result.stdout
    assert session_of(head) == session


def test_metrics_relays_rays_agent(head: Head) -> None:
    httpx.get(head.url + "/v1/models")

    wanted = (
        "ray_node_mem_used",
        "ray_ironcliw_http_requests_total",
        "ray_ironcliw_batch_tokens",
        "ray_ironcliw_model_loaded{",
        "ray_ironcliw_model_loads",
        "ray_ironcliw_model_average_ms",
    )

    def relayed() -> bool:
        text = httpx.get(head.url + "/metrics", timeout=10).text
        return all(name in text for name in wanted)

    wait_for(relayed, 60)


def test_everything_listens_on_loopback_or_is_guarded(head: Head) -> None:
    ours = {process.pid for process in tagged_processes(session_of(head))}
    listening = [
        connection.laddr
        for connection in psutil.net_connections("tcp")
        if connection.pid in ours and connection.status == psutil.CONN_LISTEN
    ]
    open_to_all = [a for a in listening if a.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]
    # Serve's replicas listen for other replicas on every address, behind Ray's token; there is no
    # setting for it in Ray 2.60 (serve/_private/replica.py)
    assert len(open_to_all) <= 2, open_to_all
    dashboard = head.environment["IRONCLIW_CLUSTER__DASHBOARD_PORT"]
    assert httpx.get(f"http://127.0.0.1:{dashboard}/api/jobs/").status_code == 401


def test_a_ray_job_runs_after_eval_of_env(head: Head, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import ray\nray.init()\nprint('answer', ray.get(ray.remote(lambda: 6 * 7).remote()))\n"
    )
    ray = shlex.quote(str(Path(IRONCLIW).with_name("ray")))
    script = (
        f'eval "$({shlex.quote(IRONCLIW)} env)" && '
        f"{ray} job submit --working-dir {shlex.quote(str(tmp_path))} -- python job.py"
    )
    environment = {**head.environment, "PATH": f"{Path(IRONCLIW).parent}:/usr/bin:/bin"}
    result = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "answer 42" in result.stdout


def test_a_replica_killed_during_a_request_is_not_noticed(head: Head) -> None:
    body = {"model": "slow", "input": "a replica dies"}
    httpx.post(head.url + "/v1/models/slow/load", timeout=60).raise_for_status()
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(
            httpx.post(head.url + "/v1/embeddings", json=body, timeout=120)
        )
    )
    asking.start()
    wait_for(lambda: head_is_computing(head, "slow"))
    victim = process_named(head, "ServeReplica:ironcliw:engine-local")
    assert victim is not None
    victim.kill()
    asking.join(120)
    assert answers[0].status_code == 200, answers[0].text
    assert len(answers[0].json()["data"][0]["embedding"]) == 4
    # and the pinned model comes back by itself
    wait_for(lambda: httpx.get(head.url + "/readyz", timeout=60).status_code == 200, 60)


def head_is_computing(head: Head, model: str) -> bool:
    queues = httpx.get(head.url + "/v1/status", timeout=10).json()["queues"]
    return bool(queues.get(model, {}).get("batches_in_flight"))


def test_an_ingress_that_is_killed_comes_back_on_its_port(head: Head) -> None:
    with httpx.Client(base_url=head.url) as client:
        assert client.get("/healthz").status_code == 200  # a connection that stays open
        victim = process_named(head, "ServeReplica:ironcliw:ingress")
        assert victim is not None
        victim.kill()
        victim.wait(10)
    wait_for(lambda: answers(head.url), 60)
    wait_for(lambda: httpx.get(head.url + "/readyz", timeout=60).status_code == 200, 60)


def answers(url: str) -> bool:
    try:
        return httpx.get(url + "/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


class TestStartingAndStopping:
    def test_nothing_runs(self, tmp_path: Path) -> None:
        head = Head(tmp_path)
        assert head.run("status").returncode == 3
        result = head.run("down")
        assert result.returncode == 0
        assert "nothing was running" in result.stdout

    def test_a_taken_port_is_named_and_nothing_starts(self, tmp_path: Path) -> None:
        head = Head(tmp_path)
        with socket.socket() as other:
            other.bind(("127.0.0.1", head.port))
            other.listen()
            result = head.run("up")
        assert result.returncode == 1
        assert f"port {head.port} (serve.port) is taken by" in result.stderr
        assert "IRONCLIW_SERVE__PORT" in result.stderr
        assert not (head.state / "head.json").exists()

    def test_an_open_bind_without_keys_is_refused(self, tmp_path: Path) -> None:
        head = Head(tmp_path, IRONCLIW_SERVE__HOST="0.0.0.0")
        result = head.run("up")
        assert result.returncode == 4
        assert "there is no API key" in result.stderr

    def test_an_unknown_pinned_model_is_refused(self, tmp_path: Path) -> None:
        head = Head(tmp_path, IRONCLIW_SERVE__PINNED_MODELS='["nope"]')
        result = head.run("up")
        assert result.returncode == 4
        assert "serve.pinned_models names nope; known models: all-MiniLM" in result.stderr

    def test_a_pinned_model_without_files_stops_the_start(self, tmp_path: Path) -> None:
        head = Head(
            tmp_path,
            IRONCLIW_SERVE__PINNED_MODELS='["mine"]',
            IRONCLIW_MODELS__MINE__SOURCE=f"dir:{tmp_path / 'absent'}",
            IRONCLIW_MODELS__MINE__TASK="embedding",
        )
        result = head.run("up")
        assert result.returncode == 1
        assert "does not exist" in result.stderr
        assert not (head.state / "head.json").exists()
        head.remove()

    @pytest.mark.slow
    def test_foreground_killed_then_up_then_ctrl_c(self, tmp_path: Path) -> None:
        """A `kill -9` leaves a head behind: the next `up` cleans it, then Ctrl-C ends all."""
        head = Head(tmp_path)
        first = self.foreground(head)
        session = session_of(head)
        first.kill()
        first.communicate()
        # a half-dead head: its control service is gone, the rest is not
        gcs = process_named(head, "gcs_server")
        ingress = process_named(head, "ServeReplica:ironcliw:ingress")
        assert gcs is not None
        assert ingress is not None
        gcs.kill()
        ingress.kill()
        second = self.foreground(head)
        assert session_of(head) != session
        assert not tagged_processes(session)
        session = session_of(head)
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=30)
        assert second.returncode == 0
        assert not tagged_processes(session)
        assert not (head.state / "head.json").exists()
        head.remove()

    @pytest.mark.slow
    def test_two_ups_at_once_make_one_head(self, tmp_path: Path) -> None:
        head = Head(tmp_path)
        starts = [
            subprocess.Popen(
                [IRONCLIW, "up"],
                env=head.environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(2)
        ]
        said = [start.communicate(timeout=240)[0] for start in starts]
        assert [start.returncode for start in starts] == [0, 0]
        assert sorted("already running" in text for text in said) == [False, True]
        session = session_of(head)
        assert head.run("down").returncode == 0
        assert not tagged_processes(session)
        head.remove()

    def foreground(self, head: Head) -> subprocess.Popen[str]:
        # SIGINT may be ignored in a shell's background jobs; `up` sets its own handlers
        process = subprocess.Popen(
            [IRONCLIW, "up", "--foreground"],
            env=head.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C stops everything" in line:
                return process
        pytest.fail("up ended early:\n" + "".join(lines))
