"""A head's provider that dies in the middle of a launch, for `cluster.testing.crashes`.

A process of its own, so that it can be killed as a head is: at once, and with nothing cleaned up.
It says that it has come to its step by touching a file, and waits there to be killed.
"""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from cluster.config import SPOT_TYPE, render, worker_resources
from cluster.gce.client import ComputeClient
from cluster.gce.library import compute_library
from cluster.money.ledger import Ledger
from cluster.provider import GceSpotProvider
from cluster.vm.join_check import HeadVersions
from ironcliw.settings import Settings

# seconds of work, done once where many of these processes are forked from one
for _name in ("InstancesClient", "ZoneOperationsClient"):
    getattr(compute_library(), _name)

# what is called around the step, and whether the death comes before the call or after it
PAUSES: dict[str, tuple[type, str, bool] | None] = {
    "before the reservation": (Ledger, "reserve", False),
    "after the reservation": (Ledger, "reserve", True),
    "before the insert is sent": (ComputeClient, "insert", False),
    "before the answer to the insert": None,  # the cloud kills it, which alone knows the moment
    "after the answer to the insert": (ComputeClient, "insert", True),
    "while the machine boots": (GceSpotProvider, "create_node_with_resources_and_labels", True),
}
_VERSIONS = HeadVersions("3.11.7", "patch", (), ())


def provider_of(settings: Settings, **parts: Any) -> GceSpotProvider:
    """The provider of a head with these settings, without a Ray."""
    with (
        mock.patch("cluster.provider._refuse_first_autoscaler"),
        mock.patch("cluster.provider.load_settings", lambda: settings),
    ):
        provider = GceSpotProvider(
            render(settings)["provider"], settings.cloud.cluster_name, **parts
        )
    # what a machine must have installed is not looked at: none boots
    provider.__dict__["_versions"] = _VERSIONS
    return provider


def launch(provider: GceSpotProvider, settings: Settings) -> None:
    """One worker, as the autoscaler orders it.

    Raises:
        NodeLaunchException: There is none now.
    """
    tags = {"ray-user-node-type": SPOT_TYPE, "ray-launch-request": "launch-1"}
    resources = {name: float(value) for name, value in worker_resources(settings.cloud).items()}
    provider.create_node_with_resources_and_labels({}, tags, 1, resources, {})


def launch_until(settings: Settings, step: str, there: Path) -> None:
    """Begin a launch, and wait at the step for the end."""
    pause = PAUSES[step]
    if pause is not None:
        owner, name, is_after = pause
        setattr(owner, name, _pausing(getattr(owner, name), there, is_after=is_after))
    launch(provider_of(settings), settings)


def _pausing(function: Callable[..., Any], there: Path, *, is_after: bool) -> Callable[..., Any]:
    def paused(*arguments: Any, **named: Any) -> Any:
        if is_after:
            function(*arguments, **named)
        there.touch()
        threading.Event().wait()

    return paused


if __name__ == "__main__":
    launch_until(*pickle.loads(sys.stdin.buffer.read()))
