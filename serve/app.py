"""The Serve application: an ingress and engines on the head, and engines in the cloud if wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import LoggingConfig

from cluster.config import GROUP_LABEL, SPOT_TYPE
from cluster.head import project_code
from cluster.head.ray_environment import serve_environment
from cluster.machines import machine_type
from ironcliw.setting_sections import ClientSettings, StoreSettings
from ironcliw.settings import Settings, load_settings
from serve.ingress import Ingress
from serve.replica import EngineReplica
from serve.spot_replica import SpotReplica
from serve.spot_scaling import REPORT_SECONDS

# a sliver of the resource that only the head has
_ON_HEAD = {"node:__internal_head__": 0.001}
_QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")
_MOST_REQUESTS = 1024

# More than this at work or waiting for one machine, for so long, and the next one is started.
_REQUESTS_A_MACHINE = 8.0
_UPSCALE_SECONDS = 10.0
# Of a worker's cores, for Ray and small tasks; and so that no two replicas fit on one machine.
_SPARE_CPUS = 0.5
# Serve stops a replica so long before its machine's announced end: with its default of 20 s, of
# the 30 that a Spot machine is given, that would be before the replacement can be there.
_SPOT_GRACE_SECONDS = 2.0
_SCALING = "serve.spot_scaling:replicas_wanted"
_STATE_ON_A_WORKER = Path("~/.ironcliw")


def build_app(args: dict[str, Any]) -> Application:
    """The application for `serve.run`, `serve deploy` and `ironcliw up`.

    Args:
        args: `settings`, a `Settings`; read from file and environment when it is not there.
    """
    settings: Settings = args.get("settings") or load_settings()
    ingress: Any = serve.deployment(Ingress, name="ingress", **_at_home())
    engine: Any = serve.deployment(EngineReplica, name="engine-local", **_at_home())
    if settings.cloud.project is None or settings.cloud.max_workers == 0:
        application: Application = ingress.bind(settings, engine.bind(settings))
        return application
    code = project_code.pack()
    project_code.publish(code)
    spot: Any = serve.deployment(SpotReplica, **spot_options(settings, code.uri))
    application = ingress.bind(
        settings, engine.bind(settings, code.uri), spot.bind(worker_settings(settings))
    )
    return application


def _at_home() -> dict[str, Any]:
    return {
        "num_replicas": 1,
        "max_ongoing_requests": _MOST_REQUESTS,
        "ray_actor_options": {"num_cpus": 0, "resources": _ON_HEAD},
        "logging_config": _QUIET,
        "health_check_period_s": 5,
        "graceful_shutdown_timeout_s": 5,
    }


def spot_options(settings: Settings, code_uri: str) -> dict[str, Any]:
    """The deployment in the cloud: no replica while nobody asks, one a machine, all of it.

    A replica holds nearly all CPUs of its machine, so Ray never counts the machine as idle while it
    is there; the machine's idle time begins when Serve has ended the replica.

    Args:
        settings: As given to `up`.
        code_uri: The project's code, for `py_modules`.

    Raises:
        ClusterError: the machine type is not known.
    """
    cpus = machine_type(settings.cloud.machine_type).cpus
    return {
        "name": "engine-spot",
        "max_ongoing_requests": _MOST_REQUESTS,
        "autoscaling_config": AutoscalingConfig(
            min_replicas=0,
            initial_replicas=0,
            max_replicas=settings.cloud.max_workers,
            target_ongoing_requests=_REQUESTS_A_MACHINE,
            look_back_period_s=REPORT_SECONDS,
            upscale_delay_s=_UPSCALE_SECONDS,
            downscale_delay_s=settings.serve.spot_idle_seconds,
            downscale_to_zero_delay_s=settings.serve.spot_idle_seconds,
            policy=AutoscalingPolicy(policy_function=_SCALING),  # type: ignore[no-untyped-call]
        ),
        "ray_actor_options": {
            "num_cpus": cpus - _SPARE_CPUS,
            "label_selector": {GROUP_LABEL: SPOT_TYPE},
            "runtime_env": {"py_modules": [code_uri], "env_vars": serve_environment()},
        },
        "logging_config": _QUIET,
        "health_check_period_s": 2,
        "health_check_timeout_s": 5,
        "graceful_shutdown_timeout_s": _SPOT_GRACE_SECONDS,
    }


def worker_settings(settings: Settings) -> Settings:
    """What a replica in the cloud is told: nothing of this machine, and no secret.

    It finds device, cores and memory by itself, and loads a model when the first request is there.
    """
    here = {"pinned_models": (), "memory_bytes": None, "threads": None, "device": "auto"}
    return settings.model_copy(
        update={
            "state_dir": _STATE_ON_A_WORKER,
            "cpu_capability": None,
            "serve": settings.serve.model_copy(update=here),
            "store": StoreSettings(url=None),
            "client": ClientSettings(base_url=None, api_key=None, timeout_seconds=60.0),
        }
    )
