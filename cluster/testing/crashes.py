"""What is left when a head dies in the middle of a launch, and a new one takes over.

    aftermath = crash("after the reservation", folder)
    assert aftermath.orphans == [] and len(aftermath.machines) == 1

The head is a process with the real provider, ledger and Compute client before a fake cloud; it is
killed with SIGKILL, and the cloud goes on. The new head is made of the same parts in this process.
Its autoscaler is a stand-in for Ray's: it wants one worker, and orders one where none is listed.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

from cluster.config import HEAD_INSTANCE_ID
from cluster.gce.client import ComputeClient
from cluster.head.ray_environment import token_path
from cluster.head.record import ensure_token
from cluster.money.intervals import GONE_SECONDS, RESERVATION_SECONDS
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from cluster.provider import GceSpotProvider
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import Hook
from cluster.testing.launching import PAUSES, launch, launch_until, provider_of
from cluster.testing.world import World
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings, load_settings
from ironcliw.store import Store

STEPS = tuple(PAUSES)
"""Where a head can die in a launch."""
TICKS = 2
"""Rounds of the new head after which nothing may be left over."""
_BY_THE_CLOUD = "before the answer to the insert"
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Aftermath:
    """How things stand after some rounds of the new head.

    Attributes:
        machines: Those that the cloud has.
        orphans: Those of them that the new head's autoscaler or its ledger does not know.
        inserts: Orders that reached the cloud, of both heads.
        promised: Machines for which money is held and that nobody has seen.
        held_later: The same when a reservation's time is over.
        committed_usd: Of this month, when a reservation's time is over.
        one_machine_usd: What one machine commits.
    """

    machines: Sequence[str]
    orphans: Sequence[str]
    inserts: int
    promised: Sequence[str]
    held_later: Sequence[str]
    committed_usd: float
    one_machine_usd: float


def crash(step: str, folder: Path) -> Aftermath:
    """Kill a head at a step of a launch, start a new one, and look.

    Args:
        step: One of `STEPS`.
        folder: For the state of the head; empty.
    """
    world = World()
    with FakeCompute(world) as compute:
        settings = settings_for(compute, folder)
        head = _head(settings, step, folder / "there")
        if step == _BY_THE_CLOUD:
            world.hooks["crash"] = lambda _: head.kill()
            world.add(Hook(when="created", label="crash"))
        head.start()
        try:
            _wait_for(lambda: (folder / "there").exists() or head.exitcode is not None, step)
        finally:
            head.kill()
            head.join()
        return _take_over(settings, compute)


def settings_for(compute: FakeCompute, folder: Path) -> Settings:
    """Settings of a head that has its state in that folder, and a token."""
    changes = {"state_dir": folder, "cloud": compute.cloud(vpn="none")}
    settings = load_settings().model_copy(update=changes)
    ensure_token(token_path(settings))
    return settings


def _head(settings: Settings, step: str, there: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cluster.testing.launching"])
    # a daemon: it does not outlive this process, should that end first
    return context.Process(target=launch_until, args=(settings, step, there), daemon=True)


def _take_over(settings: Settings, compute: FakeCompute) -> Aftermath:
    cluster = settings.cloud.cluster_name
    client = ComputeClient(settings.cloud)
    provider = provider_of(settings)
    with Store(settings.store_url) as store:
        store.migrate()
        ledger = Ledger(store, PriceTable.of(settings.budget), settings.budget)
        listed: list[str] = []
        for _ in range(TICKS):
            listing = client.listing(cluster)
            ledger.observe(listing.vms, at=listing.at)
            listed = _autoscale(provider, settings)
        listing = client.listing(cluster)
        ledger.observe(listing.vms, at=listing.at)
        machines = [vm.name for vm in listing.vms]
        known = {row.name for row in ledger.intervals(ledger.now()) if row.created_at is not None}
        promised = _promised(ledger)
        later = _later(store, settings, client)
        return Aftermath(
            machines=machines,
            orphans=[name for name in machines if name not in listed or name not in known],
            inserts=compute.count("POST", "*/instances"),
            promised=promised,
            held_later=_promised(later),
            committed_usd=later.standing()[1].committed,
            one_machine_usd=_one_machine(later),
        )


def _autoscale(provider: GceSpotProvider, settings: Settings) -> list[str]:
    """One round: the workers, ordered where there were none."""
    if provider.non_terminated_nodes({}) == [HEAD_INSTANCE_ID]:
        launch(provider, settings)
    return provider.non_terminated_nodes({})


def _promised(ledger: Ledger) -> list[str]:
    rows = ledger.intervals(ledger.now())
    return [row.name for row in rows if row.created_at is None and row.ended_at is None]


def _later(store: Store, settings: Settings, client: ComputeClient) -> Ledger:
    """The ledger at a time when what never came has expired."""
    pause = timedelta(seconds=RESERVATION_SECONDS + GONE_SECONDS)
    ledger = Ledger(
        store,
        PriceTable.of(settings.budget),
        settings.budget,
        clock=lambda: datetime.now(UTC) + pause,
    )
    ledger.observe(client.list_vms(settings.cloud.cluster_name))
    return ledger


def _one_machine(ledger: Ledger) -> float:
    month = ledger.standing()[1].window
    rows = [row for row in ledger.intervals(ledger.now()) if row.ended_at is None]
    return max((row.commitment().cost(month) for row in rows), default=0) / 1e6


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: the head has not come to it in {_PATIENCE_SECONDS:.0f} s")
        time.sleep(0.02)
