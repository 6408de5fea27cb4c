"""The orderly end of a cluster's machines: for `ironcliw down`, when the autoscaler is dead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from cluster.config import CLUSTER_NAME
from cluster.events import EventLog
from cluster.gce.client import ComputeClient
from cluster.machines import Vm, VmStatus
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings
from ironcliw.store import Store

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 120.0
_POLL_SECONDS = 2.0


def delete_all(settings: Settings) -> None:
    """Deletes every machine of the cluster, and waits until each is going or gone.

    An autoscaler that still runs would replace them: end it first. Machines that were ordered and
    not yet listed are found, since the listing is repeated until it is empty.

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
        names = delete_machines(client)
        # the ledger hears of it at once, should nobody list them again today
        ledger.observe(client.list_vms(CLUSTER_NAME))
        for name in names:
            events.add("deleted", f"machine {name} is deleted by `ironcliw down`", name=name)


def delete_machines(
    client: ComputeClient,
    *,
    patience: float = PATIENCE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """The same without a store; returns the names of those that were deleted.

    Raises:
        GceError: The cloud refused or did not answer.
        ClusterError: Some are still there after `patience` seconds.
    """
    deadline = clock() + patience
    asked: dict[str, None] = {}
    while left := [vm for vm in client.list_vms(CLUSTER_NAME) if not _is_going(vm, asked)]:
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
    return list(asked)


def _is_going(vm: Vm, asked: dict[str, None]) -> bool:
    return vm.name in asked and vm.status is VmStatus.STOPPING
