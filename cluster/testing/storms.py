"""What a storm of the Compute API does to the autoscaler's loop: it must neither hang nor err.

Ray's autoscaler lists machines every few seconds, in the thread that does all its other work; an
answer that is awaited for minutes stops the cluster. Launches run in threads of their own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ray.autoscaler.node_launch_exception import NodeLaunchException

from cluster.config import HEAD_INSTANCE_ID
from cluster.gce.client import ComputeClient
from cluster.gce.errors import GceError
from cluster.provider import GceSpotProvider
from cluster.testing.clocks import Clock, SystemClock
from cluster.testing.crashes import settings_for
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import ApiStorm
from cluster.testing.launching import launch, provider_of
from cluster.testing.world import World
from ironcliw.settings import Settings

ROUND_SECONDS = 5.0
WANTED = 2
_CALM_SECONDS = 420.0  # a launch that failed in the storm lets the zones rest


@dataclass(frozen=True, slots=True)
class StormReport:
    """Of a storm and the calm after it.

    Attributes:
        longest_block_seconds: Most that one listing took, answered or not.
        failed_rounds: Rounds without a listing.
        lost: Machines from before the storm that are gone.
        machines: How many there are when all is calm; `WANTED` are.
    """

    longest_block_seconds: float
    failed_rounds: int
    lost: int
    machines: int


def storm(
    folder: Path,
    seconds: float = 60.0,
    clock: Clock | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> StormReport:
    """One machine before the storm, two wanted in it and after it.

    Args:
        folder: For the state of the head; empty.
        seconds: How long every call is answered with 503.
        clock: Of cloud and head; by default the system's, so that it takes minutes.
        sleep: Called with seconds.
    """
    now = clock or SystemClock()
    with FakeCompute(World(clock=now)) as compute:
        settings = settings_for(compute, folder)
        provider = provider_of(
            settings,
            client=ComputeClient(settings.cloud, clock=now, sleep=sleep),
            clock=lambda: datetime.fromtimestamp(now(), UTC),
        )
        launch(provider, settings)
        before = {one.name for one in compute.world.instances.values()}
        compute.world.add(ApiStorm(seconds=seconds))
        blocks: list[float] = []
        failed = 0
        ends_at = now() + seconds + _CALM_SECONDS
        while now() < ends_at and len(compute.world.instances) < WANTED:
            began = now()
            nodes = _list(provider)
            blocks.append(now() - began)
            failed += nodes is None
            _order(provider, settings, nodes)
            sleep(ROUND_SECONDS)
        for _ in range(3):  # and no third one comes
            _order(provider, settings, _list(provider))
        after = {one.name for one in compute.world.instances.values()}
    return StormReport(max(blocks), failed, len(before - after), len(after))


def _list(provider: GceSpotProvider) -> list[str] | None:
    try:
        return provider.non_terminated_nodes({})
    except GceError:
        return None


def _order(provider: GceSpotProvider, settings: Settings, nodes: list[str] | None) -> None:
    """What the autoscaler does after a listing; without one it does nothing."""
    if nodes is not None and len([name for name in nodes if name != HEAD_INSTANCE_ID]) < WANTED:
        with contextlib.suppress(NodeLaunchException):
            launch(provider, settings)
