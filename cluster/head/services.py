"""The child processes of a start: `ray start`, the deployment, the supervisor."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.head.gcs_storage import GcsStorage
from cluster.head.processes import SUPERVISOR, end_ray_client_server
from cluster.head.ray_environment import DASHBOARD_HOST, has_workers, head_environment
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings, process_environment

Report = Callable[[str], None]


def start_processes(settings: Settings, session: str, report: Report) -> None:
    """Start Ray and deploy the application; returns when both are done.

    Raises:
        ClusterError: one of them failed or took too long; what they started still runs.
    """
    environment = process_environment(**head_environment(settings, session))
    logs = settings.state_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    deploy_log = logs / "deploy.log"
    restored = has_workers(settings) and restore(settings, report)
    report("starting the Ray head")
    head_log, limit = logs / "head.log", settings.cluster.start_timeout_seconds
    keep = restored and GcsStorage(settings).holds_application()
    deploy: subprocess.Popen[bytes] | None = None
    try:
        head = spawn(ray_start_command(settings), environment, head_log)
        if restored:
            # until the new head registers, its state names the old one's sockets to drivers
            wait_for_exit(head, "ray start", head_log, limit)
        # the deployment imports Ray while the head starts: that takes either about as long
        deploy = spawn(_deploy_command(keep=keep), environment, deploy_log, pickle.dumps(settings))
        wait_for_exit(head, "ray start", head_log, limit)
        report("waiting for the application to come back" if keep else "deploying the application")
        wait_for_exit(deploy, "the deployment", deploy_log, limit)
        end_ray_client_server(session)
    finally:
        if deploy is not None and deploy.poll() is None:
            deploy.send_signal(signal.SIGTERM)
    if has_workers(settings):
        GcsStorage(settings).note_application()
        command = [sys.executable, "-m", SUPERVISOR]
        spawn(command, environment, logs / "supervisor.log", pickle.dumps(settings))


def _deploy_command(*, keep: bool) -> list[str]:
    return [sys.executable, "-m", "cluster.head.application", *(["--keep"] if keep else [])]


def restore(settings: Settings, report: Report) -> bool:
    """Make the state of an earlier head ready to be taken on; whether there is one."""
    restored = GcsStorage(settings).prepare(report)
    if restored:
        report("taking on the state of the earlier head: its workers and actors come back")
        # Ray refuses a start while a process of this machine, a worker of a test bed perhaps,
        # names the address that stands here
        (settings.ray_temp_dir / "ray_current_cluster").unlink(missing_ok=True)
    return restored


def ray_start_command(settings: Settings) -> list[str]:
    """The command that starts the head's processes and returns."""
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
    return [*command, *_autoscaler_options(settings), "--disable-usage-stats"]


def _autoscaler_options(settings: Settings) -> list[str]:
    if not has_workers(settings):
        # nothing for the monitor to do
        return ["--no-monitor"]
    # needs YAML, which comes with Ray and not with the base install
    from cluster.head.autoscaling import autoscaler_options

    return autoscaler_options(settings)


def spawn(
    command: list[str], environment: dict[str, str], log: Path, given: bytes = b""
) -> subprocess.Popen[bytes]:
    """Start a process that prints into a log and reads what it is given."""
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


def wait_for_exit(process: subprocess.Popen[bytes], what: str, log: Path, timeout: float) -> None:
    """Wait until a process has ended well.

    Raises:
        ClusterError: it has not, or it takes too long.
    """
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
