"""Looks after the machines, beside the head: the shell around `cluster.control.state`.

It asks the cloud and the head in threads, never waits for them, and does what
is decided there of the last answers. It holds nothing that could be lost: after a
restart it continues from the labels of the machines, the head's state and the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster.announcements import Announcements
from cluster.config import HEAD_INSTANCE_ID
from cluster.control.agent_news import AgentNews
from cluster.control.agent_reports import AgentReports
from cluster.control.gcs_link import GcsLink, View
from cluster.control.instructions import Forget
from cluster.control.leases import leased
from cluster.control.metrics import metrics_text, write_metrics
from cluster.control.occupants import Occupancy, bookings
from cluster.control.performer import FAILURES, Performer
from cluster.control.planned_end import orders_of
from cluster.control.poller import Poller
from cluster.control.report import make_report, write_report
from cluster.control.silence import Silence
from cluster.control.snapshot import Snapshot
from cluster.control.state import ControllerState
from cluster.events import EventLog
from cluster.gce.client import ComputeClient, Listing, Preemption
from cluster.head.head_id import head_id
from cluster.head.preflight import run_migration
from cluster.keep_warm import is_warm
from cluster.launch.zone_choice import load_book
from cluster.machines import Vm
from cluster.money.intervals import Observation
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from cluster.own_machines import OwnMachines
from ironcliw.errors import StoreError
from ironcliw.settings import Settings
from ironcliw.store import Store

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
PERIOD_SECONDS = 2.0
FRESH_SECONDS = 15.0
"""Answers that are older are not acted upon."""
_WATCH_PERIOD = 0.5  # while machines live: their replacement needs most of a notice's time
_PREEMPTIONS_PERIOD = 5.0
_OCCUPANCY_PERIOD = 10.0
_OCCUPANCY_SECONDS = 30.0  # a demand that flickers would let a machine go that is wanted
_PREEMPTIONS_SINCE = timedelta(minutes=10)
_METRICS_PERIOD = 5.0
_SILENT_SECONDS = 60.0
_REMEMBERED = 500  # events that are looked through for machines that joined


class Controller:
    """Carries out what `ControllerState` decides.

    Args:
        settings: All of the head's.
        store: Migrated already.
        client: Of the cloud.
        gcs: Of the head.
        clock: The wall clock; aware datetimes.
        monotonic: Seconds.
        executor: Makes what runs the calls, of so many threads and a name.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        client: ComputeClient,
        gcs: GcsLink,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        executor: Callable[[int, str], Executor] = ThreadPoolExecutor,
    ) -> None:
        self._settings = settings
        self._store = store
        self._client = client
        self._gcs = gcs
        self._clock = clock
        self._monotonic = monotonic
        cloud, budget = settings.cloud, settings.budget
        events = EventLog(store, clock)
        self._announcements = Announcements(events, clock)
        self._ledger = Ledger(store, PriceTable.of(budget), budget, clock)
        self._own = OwnMachines(head_id(settings.state_dir), self._ledger.ordered)
        self._agents = AgentReports(self._ledger, AgentNews.after(events), self._announcements)
        self._state = ControllerState(
            cloud.join_seconds,
            cloud.max_workers,
            ordered=orders_of(events),
            joined=[one.facts["name"] for one in events.recent(_REMEMBERED, ("joined",))],
        )
        # the link to the head is for one thread at a time
        self._head_thread = executor(1, "head")
        self._cloud_threads = executor(4, "cloud")
        self._performer = Performer(
            settings, client, gcs, self._announcements, self._head_thread, self._cloud_threads
        )
        self._vms = self._poller(self._cloud_threads, self._list, PERIOD_SECONDS)
        self._taken = self._poller(self._cloud_threads, self._preemptions, _PREEMPTIONS_PERIOD)
        self._view = self._poller(self._head_thread, gcs.look, PERIOD_SECONDS)
        self._work = self._poller(self._head_thread, gcs.occupancy, _OCCUPANCY_PERIOD)
        told = self._announcements
        self._no_cloud = Silence("cloud", "the cloud", FRESH_SECONDS, told)
        self._no_head = Silence("head", "the head", FRESH_SECONDS, told)
        self._booked_at: float | None = None
        self._overdue: Sequence[str] = ()
        self._over = ""
        self._round = (0, monotonic())
        self._written_at = float("-inf")
        self._listed_at: datetime | None = None

    def tick(self) -> None:
        """Take in what was answered, and do what follows; waits for the store alone."""
        for failed in self._performer.finish():
            self._state.failed(failed)
        self._taken.poll()
        view, listed, work = self._view.poll(), self._vms.poll(), self._work.poll()
        try:
            if listed is not None:
                self._listed(*listed)
            if view is not None:
                self._view.period = _WATCH_PERIOD if view.nodes else PERIOD_SECONDS
                self._looked(view)
            if work is not None:
                self._book(work)
        except StoreError as error:
            # machines are looked after all the same: the cap holds by what was promised before
            logger.warning("the ledger could not be kept: %s", error)
        cloud_error = self._no_cloud.check(self._vms, self._taken)
        head_error = self._no_head.check(self._view)
        seen = self._snapshot()
        for instruction in self._state.step(seen):
            self._performer.perform(instruction)
        self._write_files(seen, cloud_error, head_error)

    def close(self) -> None:
        """Give the threads back; what they do is left alone."""
        for executor in (self._head_thread, self._cloud_threads):
            executor.shutdown(wait=False, cancel_futures=True)

    def _poller(self, executor: Executor, ask: Callable[[], Any], period: float) -> Any:
        return Poller(executor, ask, period, self._monotonic, FAILURES)

    def _list(self) -> tuple[Listing, datetime]:
        listing = self._client.listing(self._settings.cloud.cluster_name)
        return self._own.of(listing), self._clock()

    def _preemptions(self) -> list[Preemption]:
        since = self._ledger.now() - _PREEMPTIONS_SINCE
        return self._client.preemptions(self._settings.cloud.zones, since)

    def _listed(self, listing: Listing, answered_at: datetime) -> None:
        age = self._clock() - answered_at
        if not timedelta() <= age <= timedelta(seconds=FRESH_SECONDS):
            return  # this machine slept, or its clock was set: the next one is asked for already
        self._listed_at = self._clock()
        # the cloud's time of now; the ledger compares it with this machine's of now
        at = None if listing.at is None else listing.at + age
        observation = self._ledger.observe(listing.vms, at=at)
        self._overdue = observation.overdue
        for taken in self._taken.fresh(FRESH_SECONDS) or ():
            self._ledger.ended(taken.name, taken.at)
        over = [one for one in self._ledger.standing() if one.over]
        self._over = "; ".join(
            f"{one.committed:.2f} USD are spent or committed in {one.window}, and "
            f"budget.{one.window.period}_usd allows {one.cap:.2f}"
            for one in over
        )
        for kind, message, name in _told(observation):
            self._announcements.add(kind, message, name=name)

    def _looked(self, view: View) -> None:
        self._agents.take_in(view.reports, view.unreadable, self._clock())
        self._forget_gone(view)
        now = self._monotonic()
        if view.round != self._round[0]:
            self._round = (view.round, now)
        elif now - self._round[1] > _SILENT_SECONDS:
            message = f"the autoscaler has done nothing for {_SILENT_SECONDS:.0f} s"
            self._announcements.add("head", f"{message}: see monitor.log of the head's session")

    def _book(self, work: Occupancy) -> None:
        """Note who has used which machine since the last answer."""
        now, before = self._monotonic(), self._booked_at
        self._booked_at = now
        view: View | None = self._view.fresh(FRESH_SECONDS)
        if view is None or before is None:
            return
        # after a pause nobody knows who was there
        seconds = min(now - before, 2 * _OCCUPANCY_PERIOD)
        for name, user, used in bookings(work.users(view.nodes), seconds):
            self._ledger.add_use(name, user, used)

    def _forget_gone(self, view: View) -> None:
        """The reports of machines that are gone, some time after their last word."""
        vms = self._machines()
        if vms is None:
            return
        for name in self._agents.gone(view.reports, {vm.name for vm in vms}, self._clock()):
            self._performer.perform(Forget(name))

    def _machines(self) -> Sequence[Vm] | None:
        listed: tuple[Listing, datetime] | None = self._vms.fresh(FRESH_SECONDS)
        return None if listed is None else listed[0].vms

    def _snapshot(self) -> Snapshot:
        view: View | None = self._view.fresh(FRESH_SECONDS)
        taken: list[Preemption] = self._taken.fresh(FRESH_SECONDS) or []
        now = self._ledger.now()
        warm = is_warm(self._settings.cloud.keep_warm, self._clock().astimezone())
        work: Occupancy | None = self._work.fresh(_OCCUPANCY_SECONDS)
        by_lease = leased(view.leases, now) if view else 0
        return Snapshot(
            now=now,
            vms=self._machines(),
            nodes=view.nodes if view else None,
            preempted={one.name: one.at for one in taken},
            reports=view.reports if view else (),
            over=self._over,
            overdue=self._overdue,
            floor=max(int(warm), by_lease, work.wanted if work else 0),
            demanded=view.demanded if view else 0,
        )

    def _write_files(self, seen: Snapshot, cloud_error: str, head_error: str) -> None:
        now = self._monotonic()
        if now < self._written_at + _METRICS_PERIOD:
            return
        self._written_at = now
        try:
            report = make_report(
                seen, self._clock(), cloud_error=cloud_error, head_error=head_error
            )
            write_report(self._settings.state_dir, report)
            resting = load_book(self._store, self._settings.cloud).reasons(self._clock())
            text = metrics_text(
                seen,
                self._ledger.standing(),
                resting,
                self._listed_at,
                zones=len(self._settings.cloud.zones),
                events=EventLog(self._store).counts(self._clock() - timedelta(days=1)),
            )
            write_metrics(self._settings.state_dir, text)
        except (StoreError, OSError) as error:
            logger.warning("report and metrics could not be written: %s", error)


def _told(observation: Observation) -> list[tuple[str, str, str]]:
    """Events of the ledger: kind, sentence, name."""
    words = {
        "adopted": ("launch", "was found in the cloud; nobody here had ordered it"),
        "reopened": ("launch", "was taken for gone, and is there again"),
        "endless": ("budget", "has no max_run: it holds all of the budget until it is deleted"),
        "overdue": ("budget", "has outlived its max_run"),
        "closed": ("left", "is gone"),
        "expired": ("left", "was ordered and never seen; its money is free again"),
    }
    return [
        (kind, f"machine {name} {sentence}", name)
        for change, (kind, sentence) in words.items()
        for name in getattr(observation, change)
    ]


def make_controller(settings: Settings) -> Controller:
    """The controller of this machine's head.

    Raises:
        IroncliwError: The store cannot be used, or the settings cannot.
    """
    # beside plain Ray nobody else may have done it yet
    run_migration(settings)
    address = f"{settings.cluster.node_ip}:{settings.cluster.gcs_port}"
    return Controller(
        settings,
        Store(settings.store_url),
        ComputeClient(settings.cloud),
        GcsLink(address, HEAD_INSTANCE_ID),
    )
