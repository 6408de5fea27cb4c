"""Deploys the Serve application on a head that is just starting; run as `python -m cluster.deploy`.

A process of its own: it needs Ray and a hundred megabytes for the few seconds that it lives.
Its parent hands it the settings, secrets included, on standard input.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time

from cluster.names import load_by_name
from ironcliw import logs
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings

NAMESPACE = "ironcliw"
APPLICATION = "ironcliw"


def main() -> None:
    """Wait for the head's GCS, then deploy and wait until the application runs."""
    settings: Settings = pickle.load(sys.stdin.buffer)
    logs.configure(settings.log)
    import ray
    from ray import serve

    builder = load_by_name(settings.cluster.application)
    _wait_for_port(settings)
    ray.init(
        address=f"{settings.cluster.node_ip}:{settings.cluster.gcs_port}",
        namespace=NAMESPACE,
        log_to_driver=False,
    )
    # Disabled: the ingress listens itself, so that no proxy process stands in between
    serve.start(proxy_location="Disabled")
    serve.run(builder({"settings": settings}), name=APPLICATION, route_prefix=None)
    sys.stdout.flush()
    # a regular exit of the interpreter waits for Ray's threads, half a second that nobody needs
    os._exit(0)


def _wait_for_port(settings: Settings) -> None:
    deadline = time.monotonic() + settings.cluster.start_timeout_seconds
    address = (settings.cluster.node_ip, settings.cluster.gcs_port)
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(address) == 0:
                return
        time.sleep(0.05)
    raise ClusterError(f"nothing listens on {address[0]}:{address[1]}")


if __name__ == "__main__":
    main()
