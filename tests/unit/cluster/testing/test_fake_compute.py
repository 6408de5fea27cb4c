"""The server itself: what it records, what it leaves, how it fails."""

from __future__ import annotations

import contextlib
import gc
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest
from google.api_core import exceptions
from google.cloud import compute_v1

from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.fault_plan import Event
from cluster.testing.faults import Hook
from cluster.testing.world import World

from .conftest import ZONE, Clients

PLACE = {"project": "test-project", "zone": ZONE}
Body = Callable[..., dict[str, Any]]


class TestServer:
    def test_it_leaves_neither_threads_nor_sockets(self) -> None:
        gc.collect()  # earlier clients hold connections
        before = (threading.active_count(), psutil.Process().num_fds())
        for _ in range(3):
            # clients keep their connections, so the server has to end them
            client = httpx.Client(trust_env=False)
            with FakeCompute() as fake:
                client.get(f"{fake.url}/compute/v1/projects/test-project")
            client.close()
        assert (threading.active_count(), psutil.Process().num_fds()) == before

    def test_requests_are_recorded_with_their_time(
        self, clients: Clients, fake: FakeCompute
    ) -> None:
        list(clients.instances.list(**PLACE))
        fake.world.clock.sleep(5)
        list(clients.instances.list(**PLACE))
        first, second = fake.world.calls
        assert (first.verb, first.path) == (
            "GET",
            f"/compute/v1/projects/test-project/zones/{ZONE}/instances",
        )
        assert second.at - first.at == pytest.approx(5)

    def test_with_the_real_time_a_wait_takes_it(self, body: Body) -> None:
        with FakeCompute() as fake:
            clients = Clients(fake)
            resource = compute_v1.Instance.from_json(json.dumps(body()))
            begin = time.monotonic()
            operation = clients.instances.insert_unary(**PLACE, instance_resource=resource)
            done = clients.operations.wait(**PLACE, operation=operation.name)
            assert done.status == compute_v1.Operation.Status.DONE
            assert 0.15 < time.monotonic() - begin < 60

    def test_the_settings_of_a_cluster_lead_to_it(self, fake: FakeCompute) -> None:
        cloud = fake.cloud(max_workers=3)
        assert (cloud.project, cloud.api_endpoint) == ("test-project", fake.url)
        assert cloud.max_workers == 3

    def test_a_failure_of_the_test_bed_is_raised_at_the_end(self) -> None:
        world = World(faults=[Hook(label="unknown", when="insert")])
        url = f"/compute/v1/projects/test-project/zones/{ZONE}/instances"
        with (
            pytest.raises(KeyError, match="unknown"),
            FakeCompute(world) as fake,
            httpx.Client(base_url=fake.url, trust_env=False) as client,
            contextlib.suppress(httpx.HTTPError),
        ):
            client.post(url, json={"name": "vm-1"})

    def test_a_hook_can_wait_for_the_answer(self, body: Body) -> None:
        faults = [Hook(label="seen", when="answered", count=2)]
        world = World(clock=ManualClock(), faults=faults)
        seen: list[Event | None] = []
        world.hooks["seen"] = seen.append
        with FakeCompute(world) as fake:
            clients = Clients(fake)
            resource = compute_v1.Instance.from_json(json.dumps(body()))
            for _ in range(2):
                with contextlib.suppress(exceptions.Conflict):
                    clients.instances.insert_unary(**PLACE, instance_resource=resource)
            assert seen == []
            clients.instances.delete_unary(**PLACE, instance="vm-1")
        assert [event.kind for event in world.events][-1] == "answered"
        assert [event and event.name for event in seen] == ["vm-1"]
