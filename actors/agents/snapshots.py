"""States of a process's agents, taken so that the others have their turns meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from actors.agents.cell import Cell
from actors.agents.states import state_to_bytes

logger = logging.getLogger(__name__)

SNAPSHOT_BYTES = 8 * 1024**2
"""States of so many bytes are given at once, and one more."""
STATES_SECONDS = 0.2
"""States that take so long to make are given at once, and one more; a hold may double its time."""


@dataclass(slots=True)
class Snapshots:
    """States of agents that go on. One that is in none of these gave no state, or is not there.

    Attributes:
        states: by name.
        busy: agents that were in the midst of a plain method.
        left: agents to be asked again at once: these are enough for one answer.
        seconds: that it took to make them.
    """

    states: dict[str, bytes] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0


class States:
    """Has agents give their states.

    Args:
        cells: the agents of this process.
    """

    def __init__(self, cells: Mapping[str, Cell]) -> None:
        self._cells = cells
        self._loop = asyncio.get_running_loop()
        self._one_state = asyncio.Lock()

    async def take(self, names: list[str], hold_seconds: float = 0.0) -> Snapshots:
        """States of agents that give one and are not in the midst of a plain method.

        Args:
            names: of them.
            hold_seconds: how long they begin with no plain method so that one which runs can end.
        """
        found = Snapshots()
        cells = [self._cells[name] for name in names if name in self._cells]

        def task(cell: Cell) -> asyncio.Task[None]:
            # by its name one that keeps the event loop for itself is known
            work = self._snapshot(cell, found, hold_seconds)
            return self._loop.create_task(work, name=f"agent:{cell.name}")

        await asyncio.gather(*map(task, cells))
        return found

    async def _snapshot(self, cell: Cell, found: Snapshots, hold_seconds: float) -> None:
        async with cell.between_methods(hold_seconds) as is_between:
            if not is_between:
                found.busy.append(cell.name)
                return
            async with self._one_state:
                await asyncio.sleep(0)  # whatever else there is has its turn between two
                if _are_enough(found, hold_seconds):
                    found.left.append(cell.name)
                elif self._cells.get(cell.name) is cell:
                    begun = self._loop.time()
                    if (state := self.of(cell)) is not None:
                        found.states[cell.name] = state
                    found.seconds += self._loop.time() - begun

    def of(self, cell: Cell) -> bytes | None:
        """The state of an agent now; None: it gave none, or may be between two of its values."""
        if cell.in_thread:
            logger.warning("agent %s: a method is at its state, the last good one stays", cell.name)
            return None
        try:
            return state_to_bytes(cell.agent.snapshot())
        except Exception:  # boundary: the user's method; what it cannot save is lost, and said
            logger.exception("agent %s: its snapshot failed, the last good one stays", cell.name)
            return None


def _are_enough(found: Snapshots, hold_seconds: float) -> bool:
    size = sum(map(len, found.states.values()))
    return size >= SNAPSHOT_BYTES or found.seconds >= max(STATES_SECONDS, hold_seconds)
