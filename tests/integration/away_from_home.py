"""A head and a worker on addresses of a network that is theirs alone; run inside namespaces.

Started by `test_worker_rejoins.py` as `python -m tests.integration.away_from_home FOLDER`, as root,
in new network, PID and mount namespaces. Prints one line of JSON: what was seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from cluster.head.processes import tagged_processes
from cluster.testing.fake_compute import FakeCompute
from tests.integration.conftest import Head
from tests.integration.test_head import session_of
from tests.integration.test_head_restart import count
from tests.waiting import wait_for

HEAD = "10.77.0.1"
WORKER = "10.77.0.2"
OSX_CLUSTER = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
# seen: 68 with a load of seven on two cores; CI's machine can be slower yet, for minutes
START_SECONDS = 450
# Ray gives a node 30 s to register, and no setting changes that (_private/node.py): with a load of
# twelve on two cores they were not enough. Then `ray start` fails, and is tried again.
TRIES = 4
GAVE_UP = "The current node timed out during startup"
# A machine of its own, as far as Ray can see: no process and no file of the head's.
WORKER_SCRIPT = """\
mount -t tmpfs tmpfs /dev/shm
mkdir -p "$TEMP" && mount -t tmpfs tmpfs "$TEMP"
exec "$RAY" start --address="$HEAD" --node-ip-address="$NODE" --num-cpus=1 \
  --resources='{"spot": 1}' --object-store-memory=80000000 --disable-usage-stats --block
"""


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def start_worker(head: Head, log: Path) -> subprocess.Popen[bytes]:
    port = head.environment["IRONCLIW_CLUSTER__GCS_PORT"]
    environment = {
        **head.environment,
        **OSX_CLUSTER,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(head.state / "token"),
        "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
        "TEMP": head.environment["IRONCLIW_CLUSTER__TEMP_DIR"],
        "RAY": str(Path(sys.executable).with_name("ray")),
        "HEAD": f"{HEAD}:{port}",
        "NODE": WORKER,
    }
    names = ("--pid", "--fork", "--kill-child", "--mount-proc", "--mount")
    with log.open("wb") as output:
        return subprocess.Popen(
            ["unshare", *names, "bash", "-ec", WORKER_SCRIPT],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def started_worker(head: Head, log: Path) -> subprocess.Popen[bytes]:
    """One that has joined."""
    for _ in range(TRIES):
        worker = start_worker(head, log)
        wait_for(
            lambda one=worker: "Ray runtime started" in log.read_text() or one.poll() is not None,
            START_SECONDS,
        )
        if GAVE_UP not in log.read_text():
            break
    assert worker.poll() is None, log.read_text()
    return worker


def listening(head: Head) -> list[tuple[str, str, int]]:
    """(name of the process, address, port) of all that is reached from outside the machine."""
    names = {process.pid: process.name() for process in tagged_processes(session_of(head))}
    loopback = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    return [
        (names[one.pid], one.laddr.ip, one.laddr.port)
        for one in psutil.net_connections("tcp")
        if one.pid in names and one.status == psutil.CONN_LISTEN and one.laddr.ip not in loopback
    ]


def up(head: Head) -> str:
    for _ in range(TRIES):
        result = head.run("up", timeout=START_SECONDS + 50)
        if GAVE_UP not in result.stderr:
            break
    if result.returncode:
        raise RuntimeError(result.stderr)
    return result.stderr


def main() -> None:
    """The whole story: start, cut the head's power, start again."""
    with FakeCompute() as compute:
        tell(Path(sys.argv[1]), compute)
    # the worker ends with this process, the first of its PID namespace
    os._exit(0)


def tell(folder: Path, compute: FakeCompute) -> None:
    run("ip", "link", "set", "lo", "up")
    for address in (HEAD, WORKER):
        run("ip", "address", "add", f"{address}/24", "dev", "lo")
    head = Head(
        folder,
        IRONCLIW_CLOUD__PROJECT=compute.project,
        IRONCLIW_CLOUD__API_ENDPOINT=compute.url,
        IRONCLIW_CLUSTER__NODE_IP=HEAD,
        IRONCLIW_CLUSTER__START_TIMEOUT_SECONDS=str(START_SECONDS),
        IRONCLIW_SERVE__PINNED_MODELS="[]",
    )
    facts: dict[str, Any] = {}
    try:
        up(head)
        facts["metrics_port"] = int(head.environment["IRONCLIW_CLUSTER__METRICS_PORT"])
        facts["listening"] = listening(head)
        log = folder / "worker.log"
        worker = started_worker(head, log)
        facts["before"] = count(head, "make", "spot", **OSX_CLUSTER)
        for process in tagged_processes(session_of(head)):
            process.kill()
        killed_at = time.monotonic()
        facts["told"] = up(head)
        facts["after"] = count(head, **OSX_CLUSTER)
        facts["seconds"] = round(time.monotonic() - killed_at, 1)
        facts["worker_lives"] = worker.poll() is None
        head.run("down")
    finally:
        head.remove()
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
