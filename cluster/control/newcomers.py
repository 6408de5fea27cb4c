"""Machines that have not joined yet, and which of them went without anybody having ended them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from datetime import datetime, timedelta

from cluster.machines import TYPE_LABEL, Vm

GONE_SECONDS = 30
"""A listing may lack a machine, and GCE's word that it took one back comes some seconds late."""


class Newcomers:
    """Remembers them by name; all of it can be lost, and their end is then not noticed."""

    def __init__(self) -> None:
        self._zones: dict[str, str] = {}
        self._missing: dict[str, datetime] = {}

    def drop(self, name: str) -> None:
        """Its end has another reason, or was told."""
        self._zones.pop(name, None)
        self._missing.pop(name, None)

    def gone(
        self, now: datetime, vms: Sequence[Vm], settled: Set[str]
    ) -> Iterator[tuple[str, str]]:
        """Name and zone of each that has gone, once.

        Args:
            now: By the cloud's clock.
            vms: All machines that are there.
            settled: Names of those that have joined, or end for a reason that is known.
        """
        for vm in vms:
            self._missing.pop(vm.name, None)
            if vm.is_live and TYPE_LABEL in vm.labels:
                self._zones[vm.name] = vm.zone
        for name in self._zones.keys() & settled:
            self.drop(name)
        for name in sorted(self._zones.keys() - {vm.name for vm in vms}):
            if now - self._missing.setdefault(name, now) >= timedelta(seconds=GONE_SECONDS):
                zone = self._zones[name]
                self.drop(name)
                yield name, zone
