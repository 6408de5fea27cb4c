"""Starts and stops the servers that are compared, each on free loopback ports.

Every server is tagged in its environment (see `processes`), so that all of it is found again:
for its memory, and to end nothing but what was started here.
"""

from __future__ import annotations

import http.client
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from benchmarks import processes
from benchmarks.harness import CAPS, BenchmarkError, Options
from benchmarks.machine import ROOT
from benchmarks.peers import infinity_peer
from cluster.testing.ports import free_ports, free_run
from ironcliw.settings import process_environment

MODEL = "all-MiniLM-L6-v2"
_START_SECONDS = 180.0
_STOP_SECONDS = 40.0


class Server:
    """One running server.

    Args:
        name: How reports call it.
        command: Starts it and stays in the foreground; SIGTERM stops it.
        url: Address of its embeddings route.
        environment: The whole environment, without the tag.
        folder: For its log.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        url: str,
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        self.name, self.url = name, url
        self.tag = secrets.token_hex(8)
        self._log = folder / f"{name.replace(' ', '-')}.log"
        self.started = time.monotonic()
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**environment, processes.TAG: self.tag},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_ready(self) -> float:
        """Wait for the first embedding; returns the seconds since the start.

        Raises:
            BenchmarkError: the server ended, or took too long.
        """

        def answers() -> bool:
            if self._process.poll() is not None:
                raise BenchmarkError(f"{self.name} did not start:\n{self._tail()}")
            return post(self.url, ["ready"])[0] == 200

        if not processes.wait_until(answers, _START_SECONDS):
            raise BenchmarkError(
                f"{self.name} gave no answer in {_START_SECONDS:.0f} s:\n{self._tail()}"
            )
        return time.monotonic() - self.started

    def stop(self) -> float:
        """Stop it as a user would; returns the seconds until all of it is gone.

        What does not leave in time is killed.
        """
        started = time.monotonic()
        if self._process.poll() is None:
            # as Ctrl-C does, but no shell can have told its children to ignore it
            self._process.send_signal(signal.SIGTERM)
        # a process that has ended but was not waited for would still count as ours
        gone = processes.wait_until(self._is_gone, _STOP_SECONDS)
        if not gone:
            processes.kill_members(self.tag)
            self._process.wait()
        return time.monotonic() - started

    def memory_bytes(self) -> int:
        """Proportional set size of all its processes."""
        return processes.pss_bytes(processes.members(self.tag))

    def _is_gone(self) -> bool:
        return self._process.poll() is not None and not processes.members(self.tag)

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-1500:]


def post(url: str, texts: list[str], timeout: float = 30.0) -> tuple[int, dict[str, str]]:
    """Ask for embeddings once; status 0 when nobody listens. Header names are lower case."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    body = json.dumps({"model": MODEL, "input": texts if len(texts) > 1 else texts[0]})
    try:
        connection.request("POST", parts.path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return 0, {}
    finally:
        connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}


def start_ours(options: Options, folder: Path, **settings: str) -> Server:
    """Our server as `make serve` starts it, with a state directory and ports of its own.

    Args:
        options: Of the run.
        folder: For state and logs.
        settings: More variables of its environment.
    """
    port, gcs, dashboard, metrics, agent = free_ports(5)
    first = free_run(200)
    variables = {
        "IRONCLIW_STATE_DIR": str(folder / "state"),
        "IRONCLIW_SERVE__PORT": str(port),
        "IRONCLIW_CLUSTER__GCS_PORT": str(gcs),
        "IRONCLIW_CLUSTER__DASHBOARD_PORT": str(dashboard),
        "IRONCLIW_CLUSTER__METRICS_PORT": str(metrics),
        "IRONCLIW_CLUSTER__AGENT_PORT": str(agent),
        "IRONCLIW_CLUSTER__WORKER_PORTS": json.dumps([first, first + 199]),
        "IRONCLIW_CLUSTER__TEMP_DIR": str(folder / "ray"),
    }
    # no thread count: ours is measured with the one that it chooses for itself
    capped = CAPS[options.cap] if options.cap else {}
    environment = process_environment(**capped, **variables, **settings)
    command = [sys.executable, "-m", "ironcliw.cli", "up", "--foreground"]
    url = f"http://127.0.0.1:{port}/v1/embeddings"
    return Server("ironcliw", command, url, environment, folder)


def start_ray_peers(options: Options, folder: Path) -> Server:
    """Stock Ray Serve and the no-op deployment; its URL is the stock one's."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.peers.ray_serve", f"--port={port}"]
    command += [f"--model={options.model}", f"--temp-dir={folder / 'ray'}"]
    token = folder / "token"
    # Ray turns token authentication on by itself, and would write one to the home folder
    token.write_text(secrets.token_hex(32), encoding="ascii")
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PYTHONPATH": str(ROOT),
    }
    environment = options.child_environment(**variables)
    return Server(
        "stock Ray Serve", command, f"http://127.0.0.1:{port}/v1/embeddings", environment, folder
    )


def start_infinity(options: Options, folder: Path) -> Server:
    """infinity-emb in bfloat16; check `infinity_peer.missing` first."""
    (port,) = free_ports(1)
    command = infinity_peer.command(options.model, MODEL, port)
    environment = options.child_environment(**infinity_peer.VARIABLES)
    url = f"http://127.0.0.1:{port}/v1/embeddings"
    return Server("infinity bf16", command, url, environment, folder)
