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

from cluster.lock import head_lock
from cluster.preflight import run_preflight
from cluster.processes import (
    end_processes,
    end_ray_client_server,
    listener,
    session_tags,
    tagged_processes,
)
from cluster.ray_environment import DASHBOARD_HOST, dashboard_url, head_environment, token_path
from cluster.record import HeadRecord, ensure_token, record_path
from cluster.temp_folder import prepare_temp_folder
from ironcliw.errors import ClusterError, PortInUseError, SettingsError, UnsupportedError
from ironcliw.settings import Settings, process_environment

logger = logging.getLogger(__name__)

Report = Callable[[str], None]
_POLL_SECONDS = 0.05
_LIVENESS_SECONDS = 0.5
# How long a head that runs but does not answer is given before it is replaced.
_PATIENCE_SECONDS = 20.0
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

    Calls for one state directory take turns, so that nobody stops a head that another one is still
    starting; a call that had to wait then joins the head of the other.

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
    with head_lock(settings.state_dir, report):
        check_settings(settings)
        record = _answering_head(settings, report)
        if record is not None:
            return record, False
        clean_stale(settings, report)
        check_ports(settings)
        prepare_temp_folder(settings)
        ensure_token(token_path(settings))
        return _start_new(settings, report), True


def _answering_head(settings: Settings, report: Report) -> HeadRecord | None:
    """The running head, given time to answer; a silent one is stopped."""
    record = running_head(settings)
    if record is None or is_answering(record.base_url):
        return record
    # an ingress that died is replaced within seconds, and then this head is as good as new
    patience = min(settings.cluster.start_timeout_seconds, _PATIENCE_SECONDS)
    report(f"a head of this state directory runs but does not answer: waiting up to {patience:g} s")
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and running_head(settings) == record:
        if is_answering(record.base_url):
            return record
        time.sleep(_LIVENESS_SECONDS)
    report("stopping the head that does not answer")
    end_processes(record.session)
    record_path(settings.state_dir).unlink(missing_ok=True)
    return None


def _start_new(settings: Settings, report: Report) -> HeadRecord:
    session = secrets.token_hex(8)
    record = HeadRecord(session, settings.service_url, dashboard_url(settings), time.time())
    record.write(record_path(settings.state_dir))
    try:
        _start(settings, session, report)
        wait_ready(settings, session, report)
    except BaseException:
        # also on Ctrl-C: a half-started head must not stay behind
        end_processes(session)
        record_path(settings.state_dir).unlink(missing_ok=True)
        raise
    return record


def stop_head(settings: Settings, report: Report = logger.info) -> int:
    """End every process of this state directory's head; returns how many there were.

    A start that is under way loses its processes and fails; this call returns when that one has
    cleaned up. A head that is started meanwhile by yet another call is left alone.
    """
    path = record_path(settings.state_dir)
    record = HeadRecord.read(path)
    if record is None:
        return 0
    # before the lock: the start that holds it gives it back only when it notices its loss
    ended = end_processes(record.session)
    with head_lock(settings.state_dir, report):
        ended += end_processes(record.session)
        if HeadRecord.read(path) == record:
            path.unlink()
    return ended


def stop_every_head(settings: Settings, report: Report = logger.info) -> int:
    """End the processes of every head of this user; returns how many there were.

    It works with a damaged record too, and removes it.
    """
    ended = sum(end_processes(tag) for tag in session_tags())
    with head_lock(settings.state_dir, report):
        ended += sum(end_processes(tag) for tag in session_tags())
        record_path(settings.state_dir).unlink(missing_ok=True)
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
    run_preflight(settings)


def check_ports(settings: Settings) -> None:
    """Raise PortInUseError when somebody else has a port that the head needs."""
    ports = {
        "serve.port": (settings.serve.host, settings.serve.port),
        "cluster.gcs_port": (settings.cluster.node_ip, settings.cluster.gcs_port),
        "cluster.dashboard_port": (DASHBOARD_HOST, settings.cluster.dashboard_port),
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
        response = httpx.get(base_url + "/healthz", timeout=2.0, trust_env=False)
        return response.status_code == 200
    except httpx.HTTPError:
        return False


def wait_ready(settings: Settings, session: str, report: Report) -> None:
    """Wait until `/readyz` is 200: a real forward pass of each pinned model.

    Raises:
        ClusterError: it took too long, or somebody ended the session's processes.
    """
    report("waiting for the models")
    started_at = looked_at = time.monotonic()
    answer = "nothing listens"
    while (now := time.monotonic()) < started_at + settings.cluster.start_timeout_seconds:
        if now - looked_at > _LIVENESS_SECONDS:
            looked_at = now
            if not tagged_processes(session):
                raise ClusterError("the head's processes were ended, perhaps by `ironcliw down`")
        try:
            # this machine's own service: a proxy of the environment would not reach it
            response = httpx.get(settings.service_url + "/readyz", timeout=10.0, trust_env=False)
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
        "dashboard-host": DASHBOARD_HOST,
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
    if code < 0:
        raise ClusterError(f"{what} was ended by signal {-code}, perhaps by `ironcliw down`")
    if code != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
        raise ClusterError(f"{what} failed with exit code {code}; {log} ends:\n{tail}")
