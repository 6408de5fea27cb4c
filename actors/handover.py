"""Agents leave a machine that is taken back: they finish, and go on elsewhere with their state.

Of the time that is left most is for what the agents are at; the rest is for their states to be
committed and for another process to start. Whoever waits for an answer is told to ask again at the
new place, which its post office does by itself; what was accepted and not begun is carried along.
"""

from __future__ import annotations

import asyncio
import logging

from actors.agents.messages import Parcel
from actors.agents.records import AgentStore
from actors.agents.running import Place, Running
from actors.agents.watching import Watching
from actors.registry import AgentStatus, Entry, Registry
from ironcliw.errors import IroncliwError

logger = logging.getLogger(__name__)

FINISH_SHARE = 0.5
"""Of the time that is left: for what agents are at."""
MOST_FINISH_SECONDS = 60.0
_START_SECONDS = 120.0
"""For messages that were carried along: until the agent runs elsewhere."""


async def hand_over_host(
    place: Place,
    seconds: float,
    registry: Registry,
    running: Running,
    watching: Watching,
    store: AgentStore,
) -> None:
    """Move all agents of a host.

    Args:
        place: marked as leaving.
        seconds: until the end of its machine.
        registry: knows who is there.
        running: knows the hosts.
        watching: starts the agents again.
        store: keeps their states.
    """
    host = place.handle.name
    entries = registry.on_host(host)
    logger.warning("host %s ends in %.1f s: %d agents move", host, seconds, len(entries))
    finish = min(seconds * FINISH_SHARE, MOST_FINISH_SECONDS)
    moves = [_move(place, one, finish, registry, watching, store) for one in entries]
    for entry, result in zip(
        entries, await asyncio.gather(*moves, return_exceptions=True), strict=True
    ):
        if isinstance(result, BaseException):
            # boundary: what fails for one agent must not keep the others; it starts from its last
            # state, as after a sudden end
            logger.error("agent %s lost its last words: %s", entry.name, result)
            if entry.name in registry and entry.host == host:
                watching.restart(entry.name, "its machine ends", "moved")
    await running.release(host)


async def _move(
    place: Place,
    entry: Entry,
    finish: float,
    registry: Registry,
    watching: Watching,
    store: AgentStore,
) -> None:
    name = entry.name
    registry.mark(name, AgentStatus.MOVING, "its machine ends")
    handed = await place.handle.hand_over(name, finish)
    if handed.state is not None:
        await store.save_snapshots({name: handed.state})
    watching.restart(name, "its machine ends", "moved")
    if handed.parcels:
        watching.spawn(_carry(name, handed.parcels, watching))


async def _carry(name: str, parcels: list[Parcel], watching: Watching) -> None:
    """Give an agent what it had accepted at its old place, once it runs at the new one."""
    place = await watching.running_place(name, _START_SECONDS)
    if place is None:
        logger.error("agent %s did not start again: %d messages lost", name, len(parcels))
        return
    try:
        await place.handle.replay(parcels)
    except IroncliwError as error:
        logger.error("agent %s: %d messages were lost on the way: %s", name, len(parcels), error)
