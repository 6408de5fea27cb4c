"""Starts the control actor on a head that has just started; `cluster.services` names it."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.control import Control
from actors.control_link import NAME, NAMESPACE
from cluster.head import project_code
from cluster.head.ray_environment import has_workers
from ironcliw.errors import ClusterError, IroncliwError
from ironcliw.settings import Settings

# a sliver of the resource that only the head has: a restarted head has another node id, so an
# affinity to a node would keep an actor that Ray restarts from ever starting again
_ON_HEAD = {"node:__internal_head__": 0.001}
_MOST_CALLS = 10_000
_NAME_SECONDS = 10.0


def start(settings: Settings) -> None:
    """Start the control actor, in place of one that an earlier start has left.

    One that came back with a restored head runs with the settings and the code of then.

    Raises:
        IroncliwError: it cannot start; the message says why.
    """
    code_uri = None
    if has_workers(settings):
        code = project_code.pack()
        project_code.publish(code)
        code_uri = code.uri
    _end_earlier()
    options: dict[str, Any] = {
        "name": NAME,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "num_cpus": 0,
        "resources": _ON_HEAD,
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": _MOST_CALLS,
    }
    actor: Any = ray.remote(Control).options(**options).remote(settings, code_uri)
    try:
        error = ray.get(actor.ready.remote(), timeout=settings.cluster.start_timeout_seconds)
    except (RayError, GetTimeoutError) as failed:
        raise ClusterError(f"workflows and agents did not start: {failed}") from failed
    if error is not None:
        assert isinstance(error, IroncliwError)
        ray.kill(actor)
        raise error


def _end_earlier() -> None:
    """End an actor of the name, and wait until the name is free.

    Raises:
        ClusterError: it is not after some seconds.
    """
    deadline = time.monotonic() + _NAME_SECONDS
    while time.monotonic() < deadline:
        try:
            earlier = ray.get_actor(NAME, NAMESPACE)
        except ValueError:
            return
        with contextlib.suppress(RayError):
            ray.kill(earlier)
        time.sleep(0.05)
    raise ClusterError("the control actor of an earlier start does not end; `ironcliw down` first")
