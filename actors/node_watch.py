"""Watches the cluster's machines in the cloud: which have joined, and which are going away.

Ray knows a machine as draining from its notice on (`cluster.vm.agent` asks for the drain, and the
controller where the end is planned). It is told of at every poll until it is gone, with the moment
at which it ends: what was on its way there has begun meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from ironcliw.errors import IroncliwError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
_MS_A_SECOND = 1000.0


class Nodes(Protocol):
    """What Ray knows; blocking."""

    def workers(self) -> Iterable[str]:
        """Ids of the living machines in the cloud."""
        ...

    def draining(self) -> Mapping[str, int]:
        """Node id -> Unix milliseconds of its end; 0 where that is not known."""
        ...


Leaving = Callable[[str, float], Awaitable[None]]


class NodeWatch:
    """Polls, and tells.

    Args:
        nodes: Asked.
        notice_seconds: That a machine has whose end is not known.
        clock: Unix time.
    """

    def __init__(
        self,
        nodes: Nodes,
        notice_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._nodes = nodes
        self._notice = notice_seconds
        self._clock = clock
        self._ends: dict[str, float] = {}
        self._workers: tuple[str, ...] = ()

    def workers(self) -> tuple[str, ...]:
        """Machines that have joined and are not going away, as of the last poll."""
        return self._workers

    async def poll(self, leaving: Sequence[Leaving]) -> None:
        """Ask once, and tell of the machines that go away.

        Args:
            leaving: Each is told of a machine and the Unix time of its end; again at every poll.
        """
        known = self._ends.keys()
        living = set(await asyncio.to_thread(self._nodes.workers))
        draining = dict(await asyncio.to_thread(self._nodes.draining))
        self._workers = tuple(sorted(living - draining.keys()))
        now = self._clock()
        # a node id never comes back, so those that are gone can be forgotten
        self._ends = {
            node: self._ends.get(node) or draining[node] / _MS_A_SECOND or now + self._notice
            for node in sorted(draining)
        }
        for node, end in self._ends.items():
            if node not in known:
                logger.warning("node %s goes away in %.0f s", node[:8], end - now)
            for tell in leaving:
                await self._tell(tell, node, end)

    async def run(self, leaving: Sequence[Leaving]) -> None:
        """Poll until cancelled; see `poll`."""
        while True:
            try:
                await self.poll(leaving)
            # the boundary to Ray's private state, which has no errors of its own
            except Exception:
                logger.exception("the machines could not be watched for now")
            await asyncio.sleep(POLL_SECONDS)

    async def _tell(self, tell: Leaving, node: str, end: float) -> None:
        try:
            await tell(node, end)
        except IroncliwError as error:
            logger.error("node %s goes away and not all was moved: %s", node[:8], error)


class RayNodes:
    """What the GCS says, through the connection of this process."""

    def __init__(self, label: str, value: str) -> None:
        self._label = label
        self._value = value

    def workers(self) -> Iterable[str]:
        """Nodes that carry the label."""
        import ray

        found = ray.nodes()  # type: ignore[no-untyped-call]
        return [
            node["NodeID"]
            for node in found
            if node["Alive"] and node.get("Labels", {}).get(self._label) == self._value
        ]

    def draining(self) -> Mapping[str, int]:
        """As Ray Train asks for it; there is no public call."""
        from ray._private.state import state

        found: Mapping[str, int] = state.get_draining_nodes()
        return found
