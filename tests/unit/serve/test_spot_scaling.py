"""How many replicas run in the cloud, and what a replica there is told."""

from __future__ import annotations

import pickle
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from cluster.config import GROUP_LABEL, SPOT_TYPE, render
from ironcliw.errors import ClusterError
from ironcliw.setting_sections import (
    ClientSettings,
    CloudSettings,
    ServeSettings,
    StoreSettings,
)
from ironcliw.settings import Settings
from serve.app import spot_options, worker_settings
from serve.replica import machine_name
from serve.spot_scaling import USED, replicas_wanted

NOW = 1_000_000.0


def context(**changes: Any) -> AutoscalingContext:
    values: dict[str, Any] = {
        "deployment_id": None,
        "deployment_name": "engine-spot",
        "app_name": "ironcliw",
        "current_num_replicas": len(changes.get("running_replicas", [])),
        "target_num_replicas": len(changes.get("running_replicas", [])),
        "running_replicas": [],
        "total_num_requests": 0.0,
        "total_queued_requests": 0.0,
        "aggregated_metrics": {},
        "raw_metrics": {},
        "capacity_adjusted_min_replicas": 0,
        "capacity_adjusted_max_replicas": 2,
        "policy_state": {},
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": NOW,
        "config": AutoscalingConfig(min_replicas=0, max_replicas=2, target_ongoing_requests=8.0),
        **changes,
    }
    return AutoscalingContext(**values)


def wanted(**changes: Any) -> int:
    return replicas_wanted(context(**changes))[0]


@pytest.mark.parametrize(
    ("used", "requests", "expected"),
    [
        ({}, 0.0, 0),
        ({"a": 0.0}, 0.0, 0),
        # seen by the replica, never by Serve's look at open requests
        ({"a": 0.01}, 0.0, 1),
        ({"a": 0.0, "b": 1.0}, 0.0, 1),
        ({"a": 1.0}, 8.0, 1),
        ({"a": 1.0}, 8.1, 2),
    ],
)
def test_one_that_is_used_stays_and_load_wants_more(
    used: dict[str, float], requests: float, expected: int
) -> None:
    found = wanted(
        running_replicas=["a"], total_num_requests=requests, aggregated_metrics={USED: used}
    )
    assert found == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 1), (899.0, 1), (901.0, 0)])
def test_a_machine_that_starts_is_waited_for_but_not_for_ever(
    seconds: float, expected: int
) -> None:
    assert wanted(target_num_replicas=1, last_scale_up_time=NOW - seconds) == expected


def test_nothing_runs_for_nobody() -> None:
    assert wanted(last_scale_up_time=NOW) == 0


def test_one_that_has_started_and_is_not_used_may_end() -> None:
    assert wanted(running_replicas=["a"], last_scale_up_time=NOW) == 0


@given(st.floats(0, 1000), st.dictionaries(st.text(max_size=2), st.floats(0, 1)))
def test_never_fewer_than_the_load_wants(requests: float, used: dict[str, float]) -> None:
    found = wanted(
        running_replicas=list(used), total_num_requests=requests, aggregated_metrics={USED: used}
    )
    assert found * 8 >= requests
    assert found >= (1 if any(used.values()) else 0)


def settings(**changes: Any) -> Settings:
    return Settings(cloud=CloudSettings(project="a-project"), **changes)


def test_a_replica_asks_for_a_machine_that_the_autoscaler_can_make() -> None:
    found = settings()
    options = spot_options(found, "gcs://a.zip")["ray_actor_options"]
    kind = render(found)["available_node_types"][SPOT_TYPE]
    assert options["label_selector"].items() <= kind["labels"].items()
    assert options["label_selector"] == {GROUP_LABEL: SPOT_TYPE}
    cpus = kind["resources"]["CPU"]
    assert options["num_cpus"] <= cpus < 2 * options["num_cpus"]
    assert options["runtime_env"]["py_modules"] == ["gcs://a.zip"]
    assert options["runtime_env"]["env_vars"]["RAY_SERVE_USE_GRPC_BY_DEFAULT"] == "1"


def test_it_sleeps_as_set() -> None:
    found = settings(serve=ServeSettings(spot_idle_seconds=42.0))
    options = spot_options(found, "gcs://a.zip")
    scaling = options["autoscaling_config"]
    assert (scaling.min_replicas, scaling.initial_replicas, scaling.max_replicas) == (0, 0, 2)
    assert scaling.downscale_to_zero_delay_s == 42.0
    # Serve stops a replica this long before its machine's end
    assert options["graceful_shutdown_timeout_s"] <= 3


def test_an_unknown_machine_type_is_said() -> None:
    found = Settings(cloud=CloudSettings(project="a-project", machine_type="e2-huge"))
    with pytest.raises(ClusterError, match="e2-huge"):
        spot_options(found, "gcs://a.zip")


def test_no_secret_and_nothing_of_this_machine_travels() -> None:
    found = settings(
        state_dir=Path("/home/somebody/state"),
        cpu_capability="neon",
        store=StoreSettings(url=SecretStr("postgresql://user:password@host/base")),
        client=ClientSettings(api_key=SecretStr("a-key")),
        serve=ServeSettings(
            pinned_models=("a",), memory_bytes=1000, threads=8, device="mps", batch_items=7
        ),
    )
    told = worker_settings(found)
    text = pickle.dumps(told)
    assert b"password" not in text
    assert b"a-key" not in text
    assert told.cpu_capability is None
    assert told.state_dir == Path("~/.ironcliw")
    serve = told.serve
    assert (serve.pinned_models, serve.memory_bytes, serve.threads) == ((), None, None)
    assert (serve.device, serve.batch_items) == ("auto", 7)


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        (None, socket.gethostname()),
        ("ironcliw-head", socket.gethostname()),
        ("ironcliw-0a1b2c3d", "ironcliw-0a1b2c3d"),
    ],
)
def test_answers_name_the_machine_as_the_cloud_does(
    instance: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_CLOUD_INSTANCE_ID", raising=False)
    if instance is not None:
        monkeypatch.setenv("RAY_CLOUD_INSTANCE_ID", instance)
    assert machine_name() == expected
