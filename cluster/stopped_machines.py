"""Deletes machines that have stopped, where no controller does: their disks cost on.

A worker powers itself off when Ray has drained it. Ray sees that it is gone and asks for nothing
more, but GCE keeps a machine that its guest turned off, and bills its disk until it is deleted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Protocol

from cluster.announcements import Announcements
from cluster.machines import Vm
from ironcliw.errors import ClusterError

AGAIN_SECONDS = 60.0
"""A machine that is still listed as stopped is deleted again after it, also after a failure."""
_log = logging.getLogger(__name__)


class Cloud(Protocol):
    """The part of `cluster.gce.client.ComputeClient` that a deletion needs."""

    def delete(self, name: str, zone: str) -> None:
        """Has a machine deleted; one that is gone already is fine."""


def in_a_thread(act: Callable[[], None]) -> None:
    """Do it beside what runs here; the end of the process does not wait for it."""
    threading.Thread(target=act, name="stopped-machines", daemon=True).start()


class StoppedMachines:
    """Deletes the stopped machines of each listing; safe to share between threads.

    The controller does the same where it runs: a machine that both delete is deleted once.

    Args:
        cloud: Where the machines are.
        announcements: Where deletions are told.
        clock: Monotonic seconds.
        start: Runs what waits for the cloud, and does not wait itself.
    """

    def __init__(
        self,
        cloud: Cloud,
        announcements: Announcements,
        *,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] = in_a_thread,
    ) -> None:
        self._cloud = cloud
        self._announcements = announcements
        self._clock = clock
        self._start = start
        self._lock = threading.Lock()
        self._asked: dict[str, float] = {}

    def sweep(self, listed: Iterable[Vm]) -> None:
        """Begin to delete those of our machines that have stopped; returns at once."""
        stopped = [vm for vm in listed if vm.is_stopped]
        now = self._clock()
        with self._lock:
            names = {vm.name for vm in stopped}
            # what is not listed any more needs no memory: names are not used twice
            self._asked = {name: at for name, at in self._asked.items() if name in names}
            due = [vm for vm in stopped if now - self._asked.get(vm.name, -inf) >= AGAIN_SECONDS]
            self._asked |= {vm.name: now for vm in due}
        if due:
            self._start(lambda: self._delete(due))

    def _delete(self, vms: Sequence[Vm]) -> None:
        for vm in vms:
            try:
                self._cloud.delete(vm.name, vm.zone)
            except ClusterError as error:
                _log.warning(
                    "machine %s in %s has stopped and could not be deleted, its disk costs on; "
                    "tried again in %.0f s: %s",
                    vm.name,
                    vm.zone,
                    AGAIN_SECONDS,
                    error,
                )
                continue
            message = f"machine {vm.name} in {vm.zone} is deleted: it has stopped"
            self._announcements.add("reaped", f"{message}, and its disk costs on", name=vm.name)
