"""The Serve application: an ingress and an engine deployment, both on the head for now."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from ironcliw.settings import Settings, load_settings
from serve.ingress import Ingress
from serve.replica import EngineReplica

# a sliver of the resource that only the head has
_ON_HEAD = {"node:__internal_head__": 0.001}
_QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")


def build_app(args: dict[str, Any]) -> Application:
    """The application for `serve.run`, `serve deploy` and `ironcliw up`.

    Args:
        args: `settings`, a `Settings`; read from file and environment when it is not there.
    """
    settings: Settings = args.get("settings") or load_settings()
    engine: Any = serve.deployment(
        EngineReplica,
        name="engine-local",
        num_replicas=1,
        max_ongoing_requests=1024,
        ray_actor_options={"num_cpus": 0, "resources": _ON_HEAD},
        logging_config=_QUIET,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=5,
    )
    ingress: Any = serve.deployment(
        Ingress,
        name="ingress",
        num_replicas=1,
        max_ongoing_requests=1024,
        ray_actor_options={"num_cpus": 0, "resources": _ON_HEAD},
        logging_config=_QUIET,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=5,
    )
    application: Application = ingress.bind(settings, engine.bind(settings))
    return application
