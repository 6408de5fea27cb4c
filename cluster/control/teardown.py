"""The orderly end of a cluster's machines: for `ironcliw down`, when the autoscaler is dead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta

from cluster.events import EventLog
from cluster.gce.client import ComputeClient
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


def delete_all(settings: Settings) -> None:
    """Deletes every machine of this head, and waits until each is going or gone.

    An autoscaler that still runs would replace them: end it first. For machines that it had ordered
    and that are not listed yet, `LATE_SECONDS` are waited.

    Raises:
        GceError: The cloud refused or did not answer.
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
        names = delete_machines(client, cluster, ordered(ledger), own=own.among)
        # the ledger hears of it at once, should nobody list them again today
        listing = own.of(client.listing(cluster))
        ledger.observe(listing.vms, at=listing.at)
        for name in names:
            events.add("deleted", f"machine {name} is deleted by `ironcliw down`", name=name)


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
    patience: float = PATIENCE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """The same without a store; returns the names of those that were deleted.

    Args:
        client: Of the cloud.
        cluster: Its name.
        awaited: Machines that may still come; see `ordered`.
        own: Those of some machines that may be deleted; by default all.
        patience: Seconds for all of it.
        clock: Monotonic seconds.
        sleep: Called with seconds, between two looks.

    Raises:
        GceError: The cloud refused or did not answer.
        ClusterError: Some are still there after `patience` seconds.
    """
    deadline, late = clock() + patience, clock() + LATE_SECONDS
    asked: dict[str, None] = {}
    while True:
        left = [vm for vm in own(client.list_vms(cluster)) if not _is_going(vm, asked)]
        if not left and (clock() > late or asked.keys() >= set(awaited)):
            return list(asked)
        if clock() > deadline:
            names = ", ".join(f"{vm.name} in {vm.zone}" for vm in left)
            raise ClusterError(
                f"{names} could not be deleted within {patience:.0f} s; run `ironcliw down` again, "
                "or delete them in the console"
            )
        for vm in left:
            if vm.name not in asked:
                logger.info("deleting machine %s in %s", vm.name, vm.zone)
                client.delete(vm.name, vm.zone)
                asked[vm.name] = None
        sleep(_POLL_SECONDS)


def _is_going(vm: Vm, asked: dict[str, None]) -> bool:
    return vm.name in asked and vm.status is VmStatus.STOPPING
