"""A connection to this machine's head through Ray, for commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.head.ray_environment import client_environment
from cluster.head.record import HeadRecord, record_path
from ironcliw.errors import ClusterError, NotRunningError
from ironcliw.settings import Settings, export_environment

_NAMESPACE = "ironcliw"


@contextmanager
def connection(settings: Settings, working_dir: Path | None = None) -> Iterator[None]:
    """Connect this process to the head, and leave it at the end.

    Args:
        settings: say where the head is.
        working_dir: a folder whose modules agents shall find; it is sent to the head.

    Raises:
        NotRunningError: no head runs for these settings.
        ClusterError: it does not answer.
    """
    if HeadRecord.read(record_path(settings.state_dir)) is None:
        raise NotRunningError(
            f"no head runs for {settings.state_dir}; start it with `ironcliw up` on this machine"
        )
    # as on a Mac: Ray would otherwise replace 127.0.0.1 by an address that is not listened on
    variables = client_environment(settings, "darwin")
    del variables["RAY_ADDRESS"]  # of the dashboard, for jobs
    # before Ray is imported, which reads them then
    export_environment(variables)
    import ray

    options: dict[str, Any] = {}
    if working_dir is not None:
        sys.path.insert(0, str(working_dir))
        options["runtime_env"] = {"working_dir": str(working_dir)}
    try:
        ray.init(
            address=f"{settings.cluster.node_ip}:{settings.cluster.gcs_port}",
            namespace=_NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            **options,
        )
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(
            f"the head of {settings.state_dir} does not answer: {error}; see `ironcliw status`"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
