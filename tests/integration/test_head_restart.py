"""A head with a cloud project: what it is made of, and that it comes back as itself.

No machine is launched: the cloud is a fake one that nobody asks for any. The tests share one head
and build on each other, since each start takes as long as all of them together.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.head.processes import tagged_processes
from cluster.testing.fake_compute import FakeCompute
from tests.integration.conftest import Head
from tests.integration.test_head import process_named, session_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

CONTROLLER = "cluster.control.controller"
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
# A driver: the count of a named actor, made on the first call, and the id of the cluster.
DRIVER = """\
import json, os, sys
import ray

@ray.remote(num_cpus=0, max_restarts=-1)
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count, os.getpid()

ray.init(sys.argv[1], namespace="test", log_to_driver=False, logging_level="error")
if "make" in sys.argv:
    place = {"spot": 0.1} if "spot" in sys.argv else {}
    Counter.options(name="counter", lifetime="detached", resources=place).remote()
count, pid = ray.get(ray.get_actor("counter").add.remote(), timeout=60)
cluster = ray.get_runtime_context().gcs_address, ray._private.worker.global_worker.node.cluster_id
print(json.dumps({"count": count, "pid": pid, "cluster": cluster[1].hex()}))
"""


@pytest.fixture(scope="module")
def compute() -> Iterator[FakeCompute]:
    with FakeCompute() as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, compute: FakeCompute) -> Iterator[Head]:
    head = Head(
        tmp_path_factory.mktemp("home"),
        IRONCLIW_CLOUD__PROJECT=compute.project,
        IRONCLIW_CLOUD__API_ENDPOINT=compute.url,
        IRONCLIW_SERVE__PINNED_MODELS="[]",
        IRONCLIW_CLUSTER__SIDE_MODULES=f'["{CONTROLLER}", "tests.integration.beside_head"]',
    )
    result = head.run("up")
    assert result.returncode == 0, result.stderr
    yield head
    head.run("down")
    head.remove()


def drive(head: Head, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **head.environment,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(head.state / "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        **changes,
    }
    node = head.environment.get("IRONCLIW_CLUSTER__NODE_IP", "127.0.0.1")
    address = f"{node}:{head.environment['IRONCLIW_CLUSTER__GCS_PORT']}"
    return subprocess.run(
        [sys.executable, "-c", DRIVER, address, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def count(head: Head, *words: str, **changes: str) -> Any:
    done = drive(head, *words, **changes)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def kill(process: psutil.Process | None) -> None:
    assert process is not None
    process.kill()


def is_replaced(head: Head, part: str, old: psutil.Process | None) -> bool:
    found = process_named(head, part)
    return found is not None and found != old


def test_side_modules_run_and_come_back(home: Head) -> None:
    log = home.state / "logs" / "tests.integration.beside_head.log"
    wait_for(lambda: log.exists() and f"beside the head of {home.state}" in log.read_text())
    old = wait_for(lambda: process_named(home, "beside_head"))
    kill(old)
    wait_for(lambda: is_replaced(home, "beside_head", old))


def test_the_autoscaler_runs_and_comes_back(home: Head) -> None:
    old = wait_for(lambda: process_named(home, "autoscaler/v2/monitor.py"))
    kill(old)
    wait_for(lambda: is_replaced(home, "autoscaler/v2/monitor.py", old))


def test_it_listens_on_loopback_alone_but_for_guarded_ports_of_serve(home: Head) -> None:
    names = {process.pid: process.name() for process in tagged_processes(session_of(home))}
    elsewhere = [
        names[connection.pid]
        for connection in psutil.net_connections("tcp")
        if connection.pid in names
        and connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip not in LOOPBACK
    ]
    # serve/_private/replica.py in Ray 2.60 binds `[::]:0` for other replicas, behind Ray's token
    assert all(name.startswith("ray::ServeRepli") for name in elsewhere), elsewhere
    assert len(elsewhere) == 2


@pytest.mark.slow
def test_nobody_gets_in_without_the_token(home: Head, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    done = drive(home, "make", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode != 0
    assert "token" in done.stderr.lower(), done.stderr


@pytest.mark.slow
def test_an_actor_and_the_service_outlive_the_control_service(home: Head) -> None:
    before = count(home, "make")
    old = wait_for(lambda: process_named(home, "gcs_server"))
    kill(old)
    wait_for(lambda: is_replaced(home, "gcs_server", old))
    after = count(home)
    assert after == {**before, "count": before["count"] + 1}
    assert httpx.get(home.url + "/readyz", timeout=60).status_code == 200


@pytest.mark.slow
def test_a_head_whose_power_was_cut_comes_back_as_itself(home: Head) -> None:
    before = count(home)
    session = session_of(home)
    for process in tagged_processes(session):
        process.kill()
    wait_for(lambda: not tagged_processes(session))
    result = home.run("up")
    assert result.returncode == 0, result.stderr
    assert "taking on the state of the earlier head" in result.stderr
    assert "waiting for the application to come back" in result.stderr
    assert session_of(home) != session
    after = count(home)
    assert after["cluster"] == before["cluster"]
    # it was on the head: its name is still there, its memory is gone
    assert after["count"] == 1
    assert httpx.get(home.url + "/readyz", timeout=60).status_code == 200


def test_down_forgets_the_cluster(home: Head) -> None:
    session = session_of(home)
    result = home.run("down")
    assert result.returncode == 0, result.stderr
    assert not tagged_processes(session)
    assert not (home.state / "gcs").exists()
