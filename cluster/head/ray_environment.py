"""The environment variables that Ray and Ray Serve read, chosen for a 16 GB laptop.

Ray reads these when it is first imported, and its children inherit them: they are set before
`ray start` and before any import of ray, never later.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.head.gcs_storage import GcsStorage
from cluster.vm.startup import PULL_TIMEOUT
from ironcliw.settings import Settings

# Marks every process of one head, so that `down` can find them all without guessing by name.
SESSION_VARIABLE = "IRONCLIW_SESSION"
_OSX_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Whoever reaches the dashboard can run jobs, given the token: it stays on this machine.
DASHBOARD_HOST = "127.0.0.1"


def dashboard_url(settings: Settings) -> str:
    """Address of the Ray dashboard, which listens on loopback whatever `cluster.node_ip` is."""
    return f"http://{DASHBOARD_HOST}:{settings.cluster.dashboard_port}"


def has_workers(settings: Settings) -> bool:
    """Whether this head may have workers in the cloud."""
    return settings.cloud.project is not None


def client_environment(settings: Settings, system: str = sys.platform) -> dict[str, str]:
    """What a user's shell needs for `ray job submit` and the `ray` command line.

    Args:
        settings: Say where the head is.
        system: As `sys.platform` says it.
    """
    environment = {
        "RAY_ADDRESS": dashboard_url(settings),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(settings)),
    }
    if system == "darwin":
        # a driver on the Mac needs it as much as the head does
        environment[_OSX_CLUSTER] = _osx_cluster(settings)
    return environment


def _osx_cluster(settings: Settings) -> str:
    # Ray replaces 127.0.0.1 by the host's own address unless this is 0, on every system
    return "0" if settings.cluster.node_ip == "127.0.0.1" else "1"


def token_path(settings: Settings) -> Path:
    """File that holds the cluster's access token."""
    return settings.state_dir / "token"


def head_environment(settings: Settings, session: str) -> dict[str, str]:
    """Variables of the head, its workers and the process that deploys the application."""
    return {
        SESSION_VARIABLE: session,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(settings)),
        _OSX_CLUSTER: _osx_cluster(settings),
        "RAY_USAGE_STATS_ENABLED": "0",
        # idle worker processes cost about 60 MB each and save a second at first use
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        # Ray's workers run at nice 15; ours answer people who wait
        "RAY_worker_niceness": "0",
        **PULL_TIMEOUT,
        "RAY_event_stats": "0",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_metrics_report_interval_ms": "10000",
        "RAY_DASHBOARD_METRICS_COLLECTION_ENABLED": "0",
        # an idle laptop should be idle: the dashboard looks every 15 s instead of every 1 to 5
        "REPORTER_UPDATE_INTERVAL_MS": "15000",
        "METRICS_RECORD_INTERVAL_S": "15",
        "RAY_DASHBOARD_AGENT_POLL_INTERVAL_S": "5",
        "RAY_DASHBOARD_AGENT_CHECK_PARENT_INTERVAL_S": "2",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "3",
        # glibc gives each thread an arena of its own, which a process with many idle threads
        # never hands back
        "MALLOC_ARENA_MAX": "2",
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **serve_environment(),
        **_worker_environment(settings),
    }


def _worker_environment(settings: Settings) -> dict[str, str]:
    if not has_workers(settings):
        return {}
    # YAML, which the definition is written in, comes with Ray and not with the base install
    from cluster.head.autoscaling import autoscaler_environment

    return {**autoscaler_environment(settings), **GcsStorage(settings).environment()}


def serve_environment() -> dict[str, str]:
    """What Ray Serve reads; handle and replica, also one on a worker, must be of one mind."""
    return {
        # one event loop a replica: a hop between threads costs more than our handlers do
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # 4 MB by default; 256 vectors of 4096 floats are just over it
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 1024 * 1024),
        # the control loop's default of 0.1 s is most of an idle head's CPU time
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1",
    }
