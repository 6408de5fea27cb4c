"""Facts about machines and money for a policy that is told everything, read every few seconds.

Ray says which machines have joined, the controller's report which are on their way, the ledger what
was spent and whether another one would be granted, the events what became of earlier ones. All of
it is asked for in a thread; a decision takes what was read last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil

from actors.situation import STALE_SECONDS, HomeFacts, MachineFacts, MoneyFacts
from actors.step_memory import held_by_steps
from cluster.config import GROUP_LABEL, SPOT_TYPE
from cluster.control.report import ControllerReport, read_report
from cluster.events import EventLog
from cluster.machines import machine_type
from cluster.money.budget import MARGIN_SECONDS, Commitment
from cluster.money.ledger import Ledger, Standing
from cluster.money.prices import MICRO, PriceTable, Rates
from ironcliw.errors import IroncliwError
from ironcliw.settings import Settings
from ironcliw.store import Store

logger = logging.getLogger(__name__)

NODES_SECONDS = 2.0
MONEY_SECONDS = 10.0
SYSTEM_GB = 2.0
"""Of a machine's memory, that its system and Ray take."""
_HISTORY = timedelta(days=60)
_BYTES_A_GB = 1_000_000_000
_GIBIBYTE = 1024**3 / _BYTES_A_GB
_MEMORY_SECONDS = 1.0
_CAME_FREE_GB = 0.5
_BOOTS = 20
_BOOTING = frozenset({"PROVISIONING", "STAGING", "RUNNING"})


class FleetFacts:
    """An `actors.router.Fleet`.

    Args:
        settings: Of the cluster.
        store: Read.
        clock: Unix seconds.
    """

    def __init__(
        self, settings: Settings, store: Store, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self.has_cloud = settings.cloud.project is not None
        self.most_machines = settings.cloud.max_workers if self.has_cloud else 0
        self._read_at = clock()
        self._machines: dict[str, MachineFacts] = {}
        self._booting: dict[str, float] = {}
        self._ordered: dict[str, float] = {}
        self._money: MoneyFacts | None = None
        self._money_at = float("-inf")
        self._home = (float("-inf"), _head())
        self._room = self._home[1].available_gb
        self._held: dict[str, float] | None = None
        size = machine_type(settings.cloud.machine_type) if self.has_cloud else None
        memory = 0.0 if size is None else size.memory_gb * _GIBIBYTE - SYSTEM_GB
        cores = 1.0 if size is None else float(size.cpus)
        self.new_machine = MachineFacts("", "booting", 0.0, memory, memory, cores)

    @property
    def age(self) -> float:
        """Seconds since machines were read."""
        return self._clock() - self._read_at

    def home(self) -> HomeFacts:
        """See `actors.router.Fleet`."""
        now = self._clock()
        if not 0 <= now - self._home[0] < _MEMORY_SECONDS:
            self._home = (now, _head())
        return replace(self._home[1], held_gb=self._held)

    def machines(self) -> Sequence[MachineFacts]:
        """See `actors.router.Fleet`; those that start come last."""
        booting = [replace(self.new_machine, since=at) for at in sorted(self._booting.values())]
        return [*self._machines.values(), *booting]

    def money(self) -> MoneyFacts | None:
        """See `actors.router.Fleet`."""
        return self._money

    async def run(self, changed: Callable[[], None]) -> None:
        """Read until cancelled.

        Args:
            changed: Told when a machine came or went, or memory of the head came free.
        """
        while True:
            try:
                if await asyncio.to_thread(self.read):
                    changed()
            # the boundary to Ray's private state, which has no errors of its own
            except Exception:
                logger.exception("machines and money cannot be read for now")
            await asyncio.sleep(NODES_SECONDS)

    def read(self) -> bool:
        """Read once; whether something has changed that a step may wait for. Blocks."""
        now = self._clock()
        before = (self._state(), self.age < STALE_SECONDS)
        self._held = held_by_steps()
        if self.has_cloud:
            self._machines = _joined(self._machines, now)
        if self.has_cloud and now - self._money_at >= MONEY_SECONDS:
            try:
                self._money, self._money_at = self._read_money(now), now
            except IroncliwError as error:
                logger.warning("money cannot be read for now: %s", error)
        if self.has_cloud:
            report = read_report(self._settings.state_dir)
            joined = [one.since for one in self._machines.values()]
            self._booting = _booting(report, self._booting, self._ordered, joined, now)
        self._read_at = now
        return self._has_room() or (self._state(), True) != before

    def _state(self) -> tuple[Any, ...]:
        """What a step may wait for: machines, and whether one could be bought."""
        money = self._money
        nodes = {node: one.state for node, one in self._machines.items()}
        return (
            nodes,
            set(self._booting),
            money is None,
            money is not None and bool(money.no_purchase),
        )

    def _has_room(self) -> bool:
        """Whether memory of the head came free since that was said last."""
        room, before = self.home().available_gb, self._room
        if room > before + _CAME_FREE_GB or room < before:
            self._room = room
        return room > before + _CAME_FREE_GB

    def _read_money(self, now: float) -> MoneyFacts:
        settings, cloud = self._settings, self._settings.cloud
        moment = datetime.fromtimestamp(now, UTC)
        prices = PriceTable.of(settings.budget)
        rates = prices.rates(
            cloud.machine_type, cloud.market, cloud.disk_gb, cloud.external_address
        )
        ledger = Ledger(self._store, prices, settings.budget, lambda: moment)
        day, month = ledger.standing()
        log = EventLog(self._store)
        rows = ledger.intervals(moment - _HISTORY)
        self._ordered = {row.name: row.reserved_at.timestamp() for row in rows if row.reserved_at}
        hours = sum(_hours(row.started_at, row.ended_at or moment) for row in rows)
        lost = [event for event in log.recent(1000, ("preempted",)) if moment - event.at < _HISTORY]
        refused = log.recent(1, ("launch_failed",))
        boots = tuple(
            (joined.at - ordered).total_seconds()
            for joined in log.recent(_BOOTS, ("joined",))
            for row in rows
            if row.name == joined.facts.get("name") and (ordered := row.reserved_at) is not None
        )
        return MoneyFacts(
            price_per_hour=(rates.running + rates.disk) / MICRO,
            day_spent=day.spent,
            month_spent=month.spent,
            day_cap=day.cap,
            month_cap=month.cap,
            no_purchase=_refusal(moment, rates, cloud.max_run_hours, (day, month)),
            losses=len(lost),
            exposed_hours=hours,
            boots=boots,
            refused_at=refused[0].at.timestamp() if refused else None,
        )


def _head() -> HomeFacts:
    found = psutil.virtual_memory()
    return HomeFacts(
        found.total / _BYTES_A_GB, found.available / _BYTES_A_GB, float(os.cpu_count() or 1)
    )


def _joined(before: Mapping[str, MachineFacts], now: float) -> dict[str, MachineFacts]:
    """Machines that Ray knows, with what nothing on them has booked."""
    import ray
    from ray._private.state import available_resources_per_node, state

    draining = set(state.get_draining_nodes())
    free: Mapping[str, Mapping[str, Any]]
    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    found = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if not node["Alive"] or node.get("Labels", {}).get(GROUP_LABEL) != SPOT_TYPE:
            continue
        id_, has = node["NodeID"], node["Resources"]
        left = free.get(id_, {})
        known = before.get(id_)
        idle = left.get("CPU", 0.0) >= has.get("CPU", 0.0)
        found[id_] = MachineFacts(
            node=id_,
            state="leaving" if id_ in draining else "ready",
            since=now if known is None else known.since,
            memory_gb=has.get("memory", 0.0) / _BYTES_A_GB,
            free_gb=left.get("memory", 0.0) / _BYTES_A_GB,
            cores=has.get("CPU", 1.0),
            idle_since=_idle_since(known, now) if idle else None,
        )
    return found


def _idle_since(known: MachineFacts | None, now: float) -> float:
    return now if known is None or known.idle_since is None else known.idle_since


def _booting(
    report: ControllerReport | None,
    before: Mapping[str, float],
    ordered: Mapping[str, float],
    joined: Sequence[float],
    now: float,
) -> dict[str, float]:
    """Machines that have not joined, and since when they start: their order, or the first sight.

    Ray knows of a machine before the report does, and not by the same name: as many as have joined
    since the report start no more, those that were ordered first, or they would count twice.
    """
    if report is None or report.workers is None:
        return {}
    if now - report.at.timestamp() > 60.0:
        return {}  # nobody looks after them: what it said is old
    names = [one.name for one in report.workers if one.status in _BOOTING and one.node == "none"]
    since = {name: ordered.get(name, before.get(name, now)) for name in names}
    late = sum(at > report.at.timestamp() for at in joined)
    return dict(sorted(since.items(), key=lambda item: item[1])[late:])


def _hours(since: datetime | None, until: datetime) -> float:
    return 0.0 if since is None else max((until - since).total_seconds(), 0.0) / 3600.0


def _refusal(
    now: datetime, rates: Rates, max_run_hours: float, standings: Sequence[Standing]
) -> str:
    """Why the ledger would refuse a machine; it counts a whole run, as nobody may be there."""
    run = timedelta(hours=max_run_hours, seconds=MARGIN_SECONDS)
    whole = Commitment(rates.running, now + run, now, rates.disk)
    for standing in standings:
        if standing.cap is None:
            continue
        need = whole.cost(standing.window) / MICRO
        if standing.committed + need > standing.cap:
            return (
                f"the ledger would refuse a machine: {standing.committed:.2f} USD of the "
                f"{standing.window.period}'s {standing.cap:.2f} are committed, it may cost "
                f"{need:.2f}"
            )
    return ""
