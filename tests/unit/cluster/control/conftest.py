"""A controller on a bench."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.world import World
from tests.unit.cluster.clouds import Cloud, open_store
from tests.unit.cluster.controller_bench import Bench
from tests.unit.cluster.fake_head import FakeHead


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    store = open_store(tmp_path)
    clock = ManualClock()
    with FakeCompute(World(clock=clock)) as compute:
        bench = Bench(Cloud(compute, clock, store), FakeHead(), tmp_path / "state", None)  # type: ignore[arg-type]
        bench.start()
        yield bench
    store.close()
