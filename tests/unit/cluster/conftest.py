"""A Compute client, and the fake server that it talks to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.gce.client import ComputeClient
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.world import World


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def compute(clock: ManualClock) -> Iterator[FakeCompute]:
    with FakeCompute(World(clock=clock, largest_page=3)) as server:
        yield server


@pytest.fixture
def client(compute: FakeCompute, clock: ManualClock) -> ComputeClient:
    return ComputeClient(compute.cloud(), clock=clock, sleep=clock.sleep)
