"""Gets a worker from the cloud: a zone, the money, the insert, and the next zone if that fails.

The autoscaler repeats an order that failed every few seconds, without a pause, and does not tell
the reason to anybody. So the pauses are kept here (zones that rest cost no call), and reasons are
events. After an insert without an answer nothing else is tried: its machine may come, and then the
next listing shows it to the autoscaler, which takes it in. A full budget and a missing setting are
refused again for `HELD_SECONDS` without a look at the cloud: neither passes within seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from cluster.announcements import Announcements
from cluster.gce.client import Insertion, Listing
from cluster.gce.errors import GceError
from cluster.launch.mismatch import FIT_FACT, fit_of, held_by_mismatch
from cluster.launch.not_joined import EVENT_KINDS, NOT_JOINED, held_by_failures
from cluster.launch.worker_request import HeadFacts, NodeOrder, worker_request
from cluster.launch.zone_choice import ZoneChoice
from cluster.machines import VmRequest
from cluster.money.ledger import SEND_SECONDS, Ledger
from ironcliw.errors import ClusterError, IroncliwError, SettingsError
from ironcliw.setting_sections import CloudSettings

HELD_SECONDS = 30.0
"""The autoscaler orders anew every second, and each look at the budget costs a list of machines."""
_REMEMBERED = 500  # events that are looked through for machines that did not fit, or join


class Cloud(Protocol):
    """The part of `cluster.gce.client.ComputeClient` that a launch needs."""

    def listing(self, cluster: str) -> Listing:
        """All machines of the cluster."""

    def insert(self, request: VmRequest) -> Insertion:
        """Makes one."""


class LaunchError(ClusterError):
    """There is no machine; the message says why.

    Args:
        message: For a person.
        category: One short word: `budget`, `cooldown`, `late`, `mismatch`, `not_joined`, the class
            of a `GceError`, or the code of another error.
    """

    def __init__(self, message: str, category: str = "other") -> None:
        super().__init__(message)
        self.category = category

    def _state(self) -> dict[str, Any]:
        return {"category": self.category}


@dataclass(slots=True)
class _Refusal:
    """The last one that will hold for a while, by node type, and when it was made."""

    made: dict[str, tuple[datetime, str, str]] = field(default_factory=dict)

    def keep(self, node_type: str, now: datetime, message: str, category: str) -> None:
        self.made[node_type] = now, message, category

    def check(self, node_type: str, now: datetime) -> None:
        """Refuse in the same words.

        Raises:
            LaunchError: The refusal is younger than `HELD_SECONDS`.
        """
        if node_type not in self.made:
            return
        at, message, category = self.made[node_type]
        # a clock that was set back must not hold anything
        if timedelta() <= now - at < timedelta(seconds=HELD_SECONDS):
            raise LaunchError(message, category)


@dataclass(frozen=True, slots=True)
class Launcher:
    """Launches workers of one cluster; safe to share between threads.

    Attributes:
        cluster: Its name.
        settings: What a worker is.
        cloud: Where it comes from.
        ledger: Holds the money.
        zones: Where to ask.
        announcements: Where reasons are told.
        head: Facts about the head; asked for at each launch, as the token may have changed.
        clock: The wall clock; aware datetimes.
        head_since: When the head was started, where that is known.
    """

    cluster: str
    settings: CloudSettings
    cloud: Cloud
    ledger: Ledger
    zones: ZoneChoice
    announcements: Announcements
    head: Callable[[], HeadFacts]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    head_since: Callable[[], datetime | None] = lambda: None
    _refusal: _Refusal = field(default_factory=_Refusal, init=False, repr=False)

    def launch(self, order: NodeOrder) -> VmRequest:
        """Makes one machine in the best zone that has one; returns when it is made, not booted.

        Raises:
            LaunchError: None could be had. The reason is an event already.
        """
        try:
            self._refusal.check(order.node_type, self.clock())
            return self._launch(order)
        except LaunchError as error:
            kind = "refused" if error.category == "budget" else "launch_failed"
            self._announce_failure(kind, error.message, order, error.category)
            raise
        except IroncliwError as error:
            category = error.kind if isinstance(error, GceError) else error.code or "other"
            if isinstance(error, SettingsError):
                self._refusal.keep(order.node_type, self.clock(), error.message, category)
            self._announce_failure("launch_failed", error.message, order, category)
            raise LaunchError(error.message, category) from error

    def _launch(self, order: NodeOrder) -> VmRequest:
        zone = self.zones.best()
        if zone is None:
            raise LaunchError(self._all_rest(), "cooldown")
        head = self.head()
        fit = fit_of(self.settings.image, head.versions)
        known = self.announcements.recent(_REMEMBERED, EVENT_KINDS)
        now, head_since = self.clock(), self.head_since()
        if held := held_by_mismatch(fit, known, now, head_since):
            raise LaunchError(held, "mismatch")
        if held := held_by_failures(fit, known, now, head_since):
            raise LaunchError(held, NOT_JOINED)
        self._observe()
        tried: set[str] = set()
        kind = "stockout"
        while zone is not None:
            tried.add(zone)
            if self.ledger.is_stale:  # a zone may take a minute to refuse
                self._observe()
            try:
                return self._launch_in(zone, order, head)
            except GceError as error:
                if error.may_exist:
                    raise
                kind = error.kind
            zone = self.zones.best(tried)
        raise LaunchError(self._all_rest(), kind)

    def _observe(self) -> None:
        """Money is counted from what the cloud says there is."""
        listing = self.cloud.listing(self.cluster)
        self.ledger.observe(listing.vms, at=listing.at)

    def _launch_in(self, zone: str, order: NodeOrder, head: HeadFacts) -> VmRequest:
        request = worker_request(self.cluster, self.settings, order, head, zone)
        began = self.clock()
        admission = self.ledger.reserve(request)
        if not admission.granted:
            self._refusal.keep(order.node_type, self.clock(), admission.reason, "budget")
            raise LaunchError(admission.reason, "budget")
        if not timedelta() <= self.clock() - began < timedelta(seconds=SEND_SECONDS):
            # this machine slept, or its clock was set: the money may be counted no more
            self.ledger.release(request.name, "not sent in time")
            raise LaunchError("the insert could not be sent in time; it is tried again", "late")
        insertion = self._insert(request)
        self.zones.succeeded(zone)
        self.announcements.add(
            "launch",
            f"machine {request.name} launched in {zone}",
            name=request.name,
            zone=zone,
            machine_type=request.machine_type,
            market=request.market,
            node_type=order.node_type,
            committed_usd=round(admission.committed, 4),
            notice_seconds=insertion.notice_seconds,
            **{FIT_FACT: fit_of(request.image, head.versions)},
        )
        if insertion.remark:
            self.announcements.add("launch", insertion.remark, name=request.name)
        return request

    def _insert(self, request: VmRequest) -> Insertion:
        try:
            return self.cloud.insert(request)
        except GceError as error:
            self.zones.failed(request.zone, error)
            if not error.may_exist:
                self.ledger.release(request.name, error.message)
            self.announcements.add(
                "launch_failed",
                error.message,
                topic=f"{request.zone} {error.code}",
                name=request.name,
                zone=request.zone,
                category=error.kind,
                code=error.code,
            )
            raise

    def _all_rest(self) -> str:
        reasons = self.zones.reasons()
        # the zones of a region rest for one reason: say it once
        by_reason: dict[str, list[str]] = {}
        for zone, reason in reasons.items():
            by_reason.setdefault(reason, []).append(zone)
        told = "; ".join(f"{', '.join(zones)}: {reason}" for reason, zones in by_reason.items())
        return f"no zone gives a machine now: {told}" if told else "no zone gave a machine"

    def _announce_failure(self, kind: str, message: str, order: NodeOrder, category: str) -> None:
        facts = {"node_type": order.node_type, "category": category}
        self.announcements.add(kind, message, topic=category, **facts)
