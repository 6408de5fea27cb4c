"""Processes as Ray actors: what is found after a restart, and what a start that ends leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.agents import ray_hosts
from actors.agents.hosts import HostPlan
from actors.agents.ray_hosts import RayHandle, RayHosts
from actors.agents.reports import HostReport
from actors.control_link import NAMESPACE
from ironcliw.errors import UnavailableError
from ironcliw.setting_sections import LogSettings
from tests.waiting import until


class Cluster:
    """Actors as Ray shows them; a name says how one answers."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.asked: list[str] = []
        self.killed: list[str] = []
        self.most_hung_at_once = self._hang = 0

    async def report(self, handle: RayHandle) -> HostReport:
        self.asked.append(handle.name)
        if "hangs" in handle.name:
            self._hang += 1
            self.most_hung_at_once = max(self.most_hung_at_once, self._hang)
            try:
                await asyncio.Event().wait()
            finally:
                self._hang -= 1
        if "fails" in handle.name:
            raise UnavailableError("a host could not be asked: the control service is away")
        return HostReport(handle.name, "node-1", 1, 1)

    async def kill(self, handle: RayHandle) -> None:
        self.killed.append(handle.name)

    def listed(self, _: bool) -> list[dict[str, str]]:
        return [{"name": name, "namespace": NAMESPACE} for name in self.names]


class Maker:
    """In place of Ray's class of actors."""

    def options(self, **_: Any) -> Maker:
        return self

    def remote(self, *_: Any) -> object:
        return object()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(ray_hosts, "list_named_actors", cluster.listed)
    monkeypatch.setattr(ray_hosts, "_actor_class", Maker)
    monkeypatch.setattr(RayHandle, "report", lambda handle: cluster.report(handle))
    monkeypatch.setattr(RayHandle, "kill", lambda handle: cluster.kill(handle))
    return cluster


async def test_hosts_that_do_not_answer_hold_up_nobody(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_hosts, "_FIND_SECONDS", 0.2, raising=False)
    hanging = [f"agents-spot-hangs-{number}" for number in range(10)]
    cluster.names = ["other", *hanging, "agents-local-fails", "agents-local-up"]
    found = await RayHosts(LogSettings()).find()
    assert cluster.most_hung_at_once == 10, "one after the other they would take ten times as long"
    assert [(one.name, one.node) for one in found] == [("agents-local-up", "node-1")]
    assert sorted(cluster.killed) == ["agents-local-fails", *hanging]


async def test_a_start_that_is_broken_off_leaves_no_actor(cluster: Cluster) -> None:
    # which would wait for a machine, and have one bought
    plan = HostPlan("agents-spot-hangs", "spot")
    starting = asyncio.create_task(RayHosts(LogSettings()).launch(plan))
    await until(lambda: cluster.asked)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert cluster.killed == ["agents-spot-hangs"]


async def test_nor_does_one_that_fails(cluster: Cluster) -> None:
    with pytest.raises(UnavailableError, match="no process for agents of place 'local' could be"):
        await RayHosts(LogSettings()).launch(HostPlan("agents-local-fails", "local"))
    assert cluster.killed == ["agents-local-fails"]
