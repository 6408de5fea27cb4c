"""A cloud whose time the test moves, and the real clients of google-cloud-compute before it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import compute_v1

from cluster.testing.clocks import ManualClock
from cluster.testing.control_plane import ControlPlane
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.world import World

ZONE = "us-central1-a"


@dataclass
class Cloud:
    """A world, its time, and what clients may ask of it without HTTP."""

    world: World
    clock: ManualClock
    plane: ControlPlane

    def insert(self, body: dict[str, Any], zone: str = ZONE, request_id: str | None = None) -> Any:
        with self.world.lock:
            self.world.step()
            return self.plane.insert(zone, body, request_id)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.world.step()

    def status(self, name: str) -> str | None:
        instance = self.world.named(name)
        return instance.status(self.world.now) if instance else None

    def kinds(self) -> list[str]:
        return [event.kind for event in self.world.events]


@dataclass
class Clients:
    """The real clients, aimed at a fake."""

    fake: FakeCompute

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        options = ClientOptions(api_endpoint=self.fake.url)
        return {
            "credentials": AnonymousCredentials(),  # type: ignore[no-untyped-call]
            "client_options": options,
        }

    @cached_property
    def instances(self) -> compute_v1.InstancesClient:
        return compute_v1.InstancesClient(**self._arguments)

    @cached_property
    def operations(self) -> compute_v1.ZoneOperationsClient:
        return compute_v1.ZoneOperationsClient(**self._arguments)

    def of(self, name: str) -> Any:
        return getattr(compute_v1, name)(**self._arguments)


@pytest.fixture
def body() -> Callable[..., dict[str, Any]]:
    """Makes the JSON of an instance: a Spot VM that is deleted at its end."""

    def make(name: str = "vm-1", zone: str = ZONE, **changes: Any) -> dict[str, Any]:
        disk = {"sourceImage": "projects/debian-cloud/global/images/family/debian-12"}
        scheduling = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}
        return {
            "name": name,
            "machineType": f"zones/{zone}/machineTypes/e2-highmem-4",
            "disks": [{"boot": True, "initializeParams": {**disk, "diskSizeGb": "50"}}],
            "networkInterfaces": [{"network": "global/networks/default"}],
            "scheduling": {**scheduling, **changes.pop("scheduling", {})},
            **changes,
        }

    return make


@pytest.fixture
def make_cloud() -> Callable[..., Cloud]:
    """Makes a world with a clock of its own; the arguments are the world's."""

    def make(**arguments: Any) -> Cloud:
        clock = ManualClock()
        world = World(clock=clock, **arguments)
        return Cloud(world, clock, ControlPlane(world))

    return make


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    return make_cloud()


@pytest.fixture
def fake() -> Iterator[FakeCompute]:
    with FakeCompute(World(clock=ManualClock())) as server:
        yield server


@pytest.fixture
def clients(fake: FakeCompute) -> Clients:
    return Clients(fake)


@pytest.fixture
def insert(
    clients: Clients, body: Callable[..., dict[str, Any]]
) -> Callable[..., compute_v1.Operation]:
    """Inserts an instance by the real client, and returns the operation at its end."""

    def make(name: str = "vm-1", zone: str = ZONE, **changes: Any) -> compute_v1.Operation:
        request_id = changes.pop("request_id", str(uuid.uuid4()))
        resource = compute_v1.Instance.from_json(json.dumps(body(name, zone, **changes)))
        operation = clients.instances.insert_unary(
            compute_v1.InsertInstanceRequest(
                project="test-project",
                zone=zone,
                instance_resource=resource,
                request_id=request_id,
            )
        )
        return clients.operations.wait(project="test-project", zone=zone, operation=operation.name)

    return make
