"""The orderly end of a cluster's machines: for `ironcliw down`, when the autoscaler is dead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta

from cluster.events import EventLog
from cluster.gce.client import ComputeClient
from cluster.gce.errors import GceError
from cluster.head.head_id import head_id
from cluster.machines import Vm, VmStatus
from cluster.money.ledger import SEND_SECONDS, Ledger
from cluster.money.prices import PriceTable
from cluster.own_machines import OwnMachines
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings
from ironcliw.store import Store

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 120.0
LATE_SECONDS = 20.0
"""An insert that was on its way when its process was ended is listed by then, or never was."""
_POLL_SECONDS = 2.0
_PASSING = frozenset({"unavailable", "rate"})
"""Classes of errors after which the same call may succeed a moment later."""


def delete_all(settings: Settings) -> None:
    """Deletes every machine of this head, and waits until each is going or gone.

    An autoscaler that still runs would replace them: end it first. For machines that it had ordered
    and that are not listed yet, `LATE_SECONDS` are waited.

    Raises:
        GceError: The cloud refused to delete some, or did not answer for two minutes; the others
            are deleted all the same.
        ClusterError: Some are still there after two minutes; each ends by its own `max_run`.
    """
    if settings.cloud.project is None:
        return
    client = ComputeClient(settings.cloud)
    with Store(settings.store_url) as store:
        store.migrate()
        events = EventLog(store)
        ledger = Ledger(store, PriceTable.of(settings.budget), settings.budget)
        cluster = settings.cloud.cluster_name
        own = OwnMachines(head_id(settings.state_dir), ledger.ordered)
        deleted: list[str] = []
        try:
            delete_machines(client, cluster, ordered(ledger), own=own.among, tell=deleted.append)
        finally:
            # what was deleted is told also where something else could not be
            for name in deleted:
                events.add("deleted", f"machine {name} is deleted by `ironcliw down`", name=name)
        # the ledger hears of it at once, should nobody list them again today
        listing = own.of(client.listing(cluster))
        ledger.observe(listing.vms, at=listing.at)


def ordered(ledger: Ledger) -> list[str]:
    """Machines that were ordered a moment ago, and that no listing has shown."""
    now = ledger.now()
    since = now - timedelta(seconds=SEND_SECONDS + LATE_SECONDS)
    return [
        row.name
        for row in ledger.intervals(since)
        if row.created_at is None and row.reserved_at is not None and row.reserved_at > since
    ]


def delete_machines(
    client: ComputeClient,
    cluster: str,
    awaited: Collection[str] = (),
    *,
    own: Callable[[Sequence[Vm]], Sequence[Vm]] = lambda vms: vms,
    tell: Callable[[str], object] = lambda name: None,
    patience: float = PATIENCE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """The same without a store; returns the names of those that were deleted.

    A machine that cannot be deleted does not save the others. What the API could not answer is
    asked again until the patience is over.

    Args:
        client: Of the cloud.
        cluster: Its name.
        awaited: Machines that may still come; see `ordered`.
        own: Those of some machines that may be deleted; by default all.
        tell: Called with the name of each machine whose deletion was accepted.
        patience: Seconds for all of it.
        clock: Monotonic seconds.
        sleep: Called with seconds, between two looks.

    Raises:
        GceError: The first refusal, or what kept the API from answering until the end; the message
            names the machines that are left.
        ClusterError: Some are still there after `patience` seconds.
    """
    deadline, late = clock() + patience, clock() + LATE_SECONDS
    deletions = _Deletions(client, tell)
    while True:
        is_known = deletions.look(cluster, own)
        is_late = clock() > late or deletions.tried >= set(awaited)
        if is_known and deletions.is_at_rest and is_late:
            if not deletions.left:
                return list(deletions.asked)
            raise deletions.failure(cluster, patience)
        if clock() > deadline:
            raise deletions.failure(cluster, patience)
        deletions.ask()
        sleep(_POLL_SECONDS)


class _Deletions:
    """What was listed last, which deletions were accepted, and why the others were not."""

    def __init__(self, client: ComputeClient, tell: Callable[[str], object]) -> None:
        self._client = client
        self._tell = tell
        self._unlisted: GceError | None = None
        self._failed: dict[str, GceError] = {}
        self.asked: dict[str, None] = {}
        self.left: list[Vm] = []

    @property
    def tried(self) -> set[str]:
        """Machines that were found, whatever became of them."""
        return self.asked.keys() | self._failed.keys()

    @property
    def is_at_rest(self) -> bool:
        """Whether all that is left was refused for good."""
        return all(self._is_refused(vm.name) for vm in self.left)

    def look(self, cluster: str, own: Callable[[Sequence[Vm]], Sequence[Vm]]) -> bool:
        """List the machines; False: nobody answered, and those of the last listing stand.

        Raises:
            GceError: The list is refused for good.
        """
        try:
            listed = own(self._client.list_vms(cluster))
        except GceError as error:
            self._unlisted = error
            if error.kind not in _PASSING:
                raise self.failure(cluster, 0.0) from error
            logger.warning("the machines could not be listed, tried again: %s", error)
            return False
        self._unlisted = None
        self.left = [vm for vm in listed if not self._is_going(vm)]
        return True

    def ask(self) -> None:
        """Have each machine deleted that was not asked for, and not refused for good."""
        for vm in self.left:
            if vm.name in self.asked or self._is_refused(vm.name):
                continue
            logger.info("deleting machine %s in %s", vm.name, vm.zone)
            try:
                self._client.delete(vm.name, vm.zone)
            except GceError as error:
                logger.warning("machine %s could not be deleted: %s", vm.name, error)
                self._failed[vm.name] = error
                continue
            self._failed.pop(vm.name, None)
            self.asked[vm.name] = None
            self._tell(vm.name)

    def failure(self, cluster: str, patience: float) -> ClusterError:
        """What is left, why, and what to do."""
        names = ", ".join(f"{vm.name} in {vm.zone}" for vm in self.left)
        names = names or f"the machines of cluster {cluster}"
        step = "run `ironcliw down` again, or delete them in the console"
        found = [self._failed[vm.name] for vm in self.left if vm.name in self._failed]
        if self._unlisted is not None:
            found.append(self._unlisted)
        if not found:
            return ClusterError(f"{names} could not be deleted within {patience:.0f} s; {step}")
        first = found[0]
        message = f"{names} could not be deleted: {first.message}; {step}"
        return GceError(message, kind=first.kind, code=first.code)

    def _is_refused(self, name: str) -> bool:
        return name in self._failed and self._failed[name].kind not in _PASSING

    def _is_going(self, vm: Vm) -> bool:
        return vm.name in self.asked and vm.status is VmStatus.STOPPING
