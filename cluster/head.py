"""Start, join and stop the Ray head of this machine together with the Serve application.

`ray start` and the deployment run as child processes: this one stays small, since `make serve`
keeps it in the foreground.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from cluster.names import load_by_name
from cluster.processes import end_processes, end_ray_client_server, listener, tagged_processes
from cluster.ray_environment import head_environment, token_path
from cluster.record import HeadRecord, ensure_token, record_path
from ironcliw.errors import ClusterError, PortInUseError, SettingsError, UnsupportedError
from ironcliw.settings import Settings, process_environment

logger = logging.getLogger(__name__)

Report = Callable[[str], None]
_POLL_SECONDS = 0.05
# A socket path may have 107 bytes on Linux and 103 on macOS; Ray appends about 60 to its folder.
_MAX_TEMP_DIR = 40


def running_head(settings: Settings) -> HeadRecord | None:
    """The head of this state directory, or None when none of its processes is left."""
    record = HeadRecord.read(record_path(settings.state_dir))
    if record is None or not tagged_processes(record.session):
        return None
    return record


def start_head(settings: Settings, report: Report = logger.info) -> tuple[HeadRecord, bool]:
    """Start a head and the application, or join the one that runs already.

    Returns:
        The head's record, and whether it was started by this call.

    Raises:
        UnsupportedError: Ray is not installed.
        SettingsError: a setting makes a safe start impossible.
        PortInUseError: somebody else listens on a port we need.
        ClusterError: a step failed or took too long; whatever had started is ended again.
    """
    if importlib.util.find_spec("ray") is None:
        raise UnsupportedError(
            "a head needs Ray, which is not installed: pip install 'ironcliw[local]'"
        )
    check_settings(settings)
    record = running_head(settings)
    if record is not None:
        if is_answering(record.base_url):
            return record, False
        report("a head of this state directory runs but does not answer: stopping it first")
        stop_head(settings)
    clean_stale(settings, report)
    check_ports(settings)
    ensure_token(token_path(settings))
    session = secrets.token_hex(8)
    record = HeadRecord(session, settings.base_url, dashboard_url(settings), time.time())
    record.write(record_path(settings.state_dir))
    try:
        _start(settings, session, report)
        wait_ready(settings, report)
    except BaseException:
        # also on Ctrl-C: a half-started head must not stay behind
        end_processes(session)
        record_path(settings.state_dir).unlink(missing_ok=True)
        raise
    return record, True


def stop_head(settings: Settings) -> int:
    """End every process of this state directory's head; returns how many there were."""
    path = record_path(settings.state_dir)
    record = HeadRecord.read(path)
    if record is None:
        return 0
    ended = end_processes(record.session)
    path.unlink(missing_ok=True)
    return ended


def check_settings(settings: Settings) -> None:
    """Refuse what would be unsafe or would fail late.

    Raises:
        SettingsError: with what to change.
    """
    if len(os.fsencode(settings.ray_temp_dir)) > _MAX_TEMP_DIR:
        raise SettingsError(
            f"setting cluster.temp_dir is {str(settings.ray_temp_dir)!r}; it may have "
            f"{_MAX_TEMP_DIR} bytes at most, since Ray puts sockets below it"
        )
    load_by_name(settings.cluster.preflight)(settings)


def check_ports(settings: Settings) -> None:
    """Raise PortInUseError when somebody else has a port that the head needs."""
    ports = {
        "serve.port": (settings.serve.host, settings.serve.port),
        "cluster.gcs_port": (settings.cluster.node_ip, settings.cluster.gcs_port),
        "cluster.dashboard_port": ("127.0.0.1", settings.cluster.dashboard_port),
        "cluster.metrics_port": ("127.0.0.1", settings.cluster.metrics_port),
        "cluster.agent_port": ("127.0.0.1", settings.cluster.agent_port),
    }
    for name, (host, port) in ports.items():
        holder = listener(host, port)
        if holder is not None:
            variable = "IRONCLIW_" + name.upper().replace(".", "__")
            raise PortInUseError(
                f"port {port} ({name}) is taken by {holder}; stop it, or choose another port "
                f"with {variable}=PORT"
            )


def clean_stale(settings: Settings, report: Report) -> None:
    """End what a killed run left behind; its record says which processes were its own."""
    path = record_path(settings.state_dir)
    record = HeadRecord.read(path)
    if record is None:
        return
    ended = end_processes(record.session)
    path.unlink(missing_ok=True)
    report(f"cleaned up after an earlier run that was not stopped ({ended} processes ended)")


def is_answering(base_url: str) -> bool:
    """Whether an HTTP service of ours answers there."""
    try:
        return httpx.get(base_url + "/healthz", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def dashboard_url(settings: Settings) -> str:
    """Address of the Ray dashboard."""
    return f"http://{settings.cluster.node_ip}:{settings.cluster.dashboard_port}"


def wait_ready(settings: Settings, report: Report) -> None:
    """Wait until `/readyz` is 200: a real forward pass of each pinned model."""
    report("waiting for the models")
    deadline = time.monotonic() + settings.cluster.start_timeout_seconds
    answer = "nothing listens"
    while time.monotonic() < deadline:
        try:
            response = httpx.get(settings.base_url + "/readyz", timeout=10.0)
            if response.status_code == 200:
                return
            answer = response.text
            if response.status_code == 500:
                break
        except httpx.HTTPError as error:
            answer = str(error)
        time.sleep(_POLL_SECONDS)
    raise ClusterError(f"the service did not become ready: {answer}")


def _start(settings: Settings, session: str, report: Report) -> None:
    environment = process_environment(**head_environment(settings, session))
    logs = settings.state_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    report("starting the Ray head")
    # The deployment imports Ray while the head starts: that takes either about as long.
    deploy = _spawn(
        [sys.executable, "-m", "cluster.deploy"],
        environment,
        logs / "deploy.log",
        pickle.dumps(settings),
    )
    try:
        head = _spawn(_ray_start_command(settings), environment, logs / "head.log")
        _wait(head, "ray start", logs / "head.log", settings.cluster.start_timeout_seconds)
        report("deploying the application")
        _wait(deploy, "the deployment", logs / "deploy.log", settings.cluster.start_timeout_seconds)
        end_ray_client_server(session)
    finally:
        if deploy.poll() is None:
            deploy.send_signal(signal.SIGTERM)


def _ray_start_command(settings: Settings) -> list[str]:
    cluster = settings.cluster
    options = {
        "node-ip-address": cluster.node_ip,
        "port": cluster.gcs_port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": cluster.dashboard_port,
        "dashboard-agent-listen-port": cluster.agent_port,
        "metrics-export-port": cluster.metrics_port,
        "ray-client-server-port": cluster.worker_ports[0],
        "min-worker-port": cluster.worker_ports[0] + 1,
        "max-worker-port": cluster.worker_ports[1],
        "object-store-memory": cluster.object_store_bytes,
        "temp-dir": settings.ray_temp_dir,
        "include-dashboard": "true",
        "log-color": "false",
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head"]
    command += [f"--{name}={value}" for name, value in options.items()]
    if cluster.num_cpus is not None:
        command.append(f"--num-cpus={cluster.num_cpus}")
    # no autoscaling yet, so nothing for the monitor to do
    return [*command, "--no-monitor", "--disable-usage-stats"]


def _spawn(
    command: list[str], environment: dict[str, str], log: Path, given: bytes = b""
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        # a session of its own: Ctrl-C in the terminal goes to us alone, we end the rest in order
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.close()
    return process


def _wait(process: subprocess.Popen[bytes], what: str, log: Path, timeout: float) -> None:
    try:
        code = process.wait(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"{what} took longer than cluster.start_timeout_seconds={timeout:g}; see {log}"
        ) from None
    if code != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
        raise ClusterError(f"{what} failed with exit code {code}; {log} ends:\n{tail}")
