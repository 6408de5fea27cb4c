"""What a head with workers in the cloud is started with, on top of a head alone.

The autoscaler is Ray's second one, which `ray start` uses only when it is told to; the first one
takes machines with a shared address for each other. Its monitor imports the node provider by name,
so the project must be installed where Ray is.
"""

from __future__ import annotations

import math

from cluster.config import CLUSTER_FILE, HEAD_INSTANCE_ID, HEAD_TYPE, write_cluster_file
from ironcliw.settings import LOOPBACK_HOSTS, Settings

# prometheus_client refuses it, Ray logs that and goes on without this server.
_NO_PORT = "-1"
_TICK_SECONDS = 1
# The controller deletes such a machine 20 s after cloud.join_seconds, says why, and has the next
# ones held; the autoscaler's own time-out says and holds nothing, and must not be the first.
_REAP_SECONDS = 90


def autoscaler_environment(settings: Settings) -> dict[str, str]:
    """Variables of the head's processes."""
    environment = {
        "RAY_enable_autoscaler_v2": "1",
        # the autoscaler knows a node by its instance id only, and launches nothing while one of
        # the nodes, the head among them, has none
        "RAY_CLOUD_INSTANCE_ID": HEAD_INSTANCE_ID,
        "RAY_NODE_TYPE_NAME": HEAD_TYPE,
        # 5 by default, of which a replacement waits for half on average
        "AUTOSCALER_UPDATE_INTERVAL_S": str(_TICK_SECONDS),
        # an hour by default, which a machine that never joins would cost
        "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": str(
            math.ceil(settings.cloud.join_seconds) + _REAP_SECONDS
        ),
    }
    if settings.cluster.node_ip not in LOOPBACK_HOSTS:
        # else autoscaler/v2/monitor.py and dashboard/head.py serve their own metrics on every
        # address of this machine, without a token
        environment["AUTOSCALER_METRIC_PORT"] = _NO_PORT
        environment["DASHBOARD_METRIC_PORT"] = _NO_PORT
    return environment


def autoscaler_options(settings: Settings) -> list[str]:
    """Options of `ray start`; writes the definition of the cluster that they name.

    Raises:
        SettingsError: the settings mean no cluster.
    """
    path = settings.state_dir / CLUSTER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_cluster_file(settings, path)
    return [f"--autoscaling-config={path}"]
