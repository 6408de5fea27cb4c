"""Deploys the Serve application, and what runs beside it, on a head that is just starting.

Run as `python -m cluster.head.application`.

A process of its own: it needs Ray and a hundred megabytes for the few seconds that it lives.
Its parent hands it the settings, secrets included, on standard input. With `--keep` an application
that the head's stored state holds is left to come back by itself, unless the project's code has
changed meanwhile: its replicas in the cloud would go on with the old one.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time

from cluster.head import project_code
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
    if not _comes_back(keep="--keep" in sys.argv[1:] and _is_current(settings)):
        serve.run(builder({"settings": settings}), name=APPLICATION, route_prefix=None)
    for service in settings.cluster.services:
        load_by_name(service)(settings)
    sys.stdout.flush()
    # a regular exit of the interpreter waits for Ray's threads, half a second that nobody needs
    os._exit(0)


def _is_current(settings: Settings) -> bool:
    """Whether what workers were given is the project's code as it is now."""
    no_workers = settings.cloud.project is None or settings.cloud.max_workers == 0
    return no_workers or project_code.is_published(project_code.pack())


def _comes_back(*, keep: bool) -> bool:
    """Whether an application is there that may stay; one that may not is removed.

    A second one beside it would find the port taken.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    found = serve.status().applications.get(APPLICATION)
    if found is None:
        return False
    if keep and found.status in {ApplicationStatus.DEPLOYING, ApplicationStatus.RUNNING}:
        return True
    serve.delete(APPLICATION)
    return False


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
