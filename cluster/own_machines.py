"""Which machines are this head's, of all that carry its cluster's name.

A project's list is asked for by the cluster's name, and divided here by the head's label: the same
list then shows the machines of another head, which are told of and left alone, and those that were
made before there was a label, which are known by the ledger.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from cluster.gce.client import ComputeClient, Insertion, Listing
from cluster.machines import HEAD_LABEL, Vm, VmRequest

Ordered = Callable[[Collection[str]], Collection[str]]
"""Which of some names this head has ordered, by its ledger."""


def divide(vms: Iterable[Vm], head_id: str | None, ordered: Ordered) -> tuple[list[Vm], list[Vm]]:
    """Machines of this head, and of others.

    Args:
        vms: All that carry the cluster's name.
        head_id: Of this head; None: it has none yet.
        ordered: Asked only where a machine has no head's label.
    """
    listed = list(vms)
    unlabelled = [vm.name for vm in listed if HEAD_LABEL not in vm.labels]
    known = set(ordered(unlabelled)) if unlabelled else set()

    def is_own(vm: Vm) -> bool:
        label = vm.labels.get(HEAD_LABEL)
        return vm.name in known if label is None else label == head_id

    own = [vm for vm in listed if is_own(vm)]
    return own, [vm for vm in listed if not is_own(vm)]


def whose(vm: Vm) -> str:
    """What a machine that is not ours says of its head."""
    label = vm.labels.get(HEAD_LABEL)
    return f"it belongs to the head {label}" if label else "it says of no head that it ordered it"


class OwnMachines:
    """Divides the listings of one process; safe to share between threads.

    Args:
        head_id: Of this head.
        ordered: Which of some names it has ordered.
        tell: Called once with each machine of another head.
    """

    def __init__(
        self, head_id: str, ordered: Ordered, tell: Callable[[Vm], object] = lambda vm: None
    ) -> None:
        self.head_id = head_id
        self._ordered = ordered
        self._tell = tell
        self._lock = threading.Lock()
        self._told: set[str] = set()

    def among(self, vms: Iterable[Vm]) -> list[Vm]:
        """Those of this head.

        Raises:
            StoreError: One has no head's label, and the ledger cannot be read.
        """
        own, others = divide(vms, self.head_id, self._ordered)
        with self._lock:
            news = [vm for vm in others if vm.name not in self._told]
            self._told = {vm.name for vm in others}
        for vm in news:
            self._tell(vm)
        return own

    def of(self, listing: Listing) -> Listing:
        """A listing of those alone."""
        return replace(listing, vms=self.among(listing.vms))


@dataclass(frozen=True, slots=True)
class OwnCloud:
    """A cloud that shows the machines of one head; what `cluster.launch.launcher` needs of it."""

    client: ComputeClient
    own: OwnMachines

    def listing(self, cluster: str) -> Listing:
        """As `ComputeClient.listing`."""
        return self.own.of(self.client.listing(cluster))

    def insert(self, request: VmRequest) -> Insertion:
        """As `ComputeClient.insert`."""
        return self.client.insert(request)
