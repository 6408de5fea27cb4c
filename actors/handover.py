"""Agents leave a machine that is taken back: they finish, and go on elsewhere with their state.

Of the time that is left most is for what the agents are at; the rest is for their states to be
committed and for another process to start. Whoever waits for an answer is told to ask again at the
new place, which its post office does by itself; what was accepted and not begun is carried along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from actors.agents.link import HostLostError
from actors.agents.running import Place, Running
from actors.agents.watching import Watching
from actors.registry import AgentStatus, Entry, Registry
from ironcliw.errors import UnavailableError

logger = logging.getLogger(__name__)

FINISH_SHARE = 0.5
"""Of the time that is left: for what agents are at."""
MOST_FINISH_SECONDS = 60.0
_ANSWER_SECONDS = 5.0
"""After that, for an agent to stop; a process that blocks is not waited for any longer."""
_WHY = "its machine or process ends"


async def hand_over_host(
    place: Place,
    seconds: float,
    registry: Registry,
    running: Running,
    watching: Watching,
) -> None:
    """Move all agents of a host.

    Args:
        place: marked as leaving.
        seconds: until the end of its machine.
        registry: knows who is there.
        running: knows the hosts, and keeps states and messages.
        watching: starts the agents again.
    """
    host = place.handle.name
    entries = registry.on_host(host)
    logger.warning("host %s ends in %.1f s: %d agents move", host, seconds, len(entries))
    finish = min(seconds * FINISH_SHARE, MOST_FINISH_SECONDS)
    await hand_over_agents(place, entries, _WHY, finish, registry, running, watching)
    await running.release(host)


async def hand_over_agents(
    place: Place,
    entries: Sequence[Entry],
    why: str,
    finish: float,
    registry: Registry,
    running: Running,
    watching: Watching,
) -> None:
    """Move agents of a host.

    Args:
        place: one that is not chosen for them again.
        entries: of the agents.
        why: for those who ask.
        finish: seconds for what they are at.
        registry: as of `hand_over_host`; `running` and `watching` likewise.
    """
    for entry in entries:
        registry.mark(entry.name, AgentStatus.MOVING, why)

    async def move(entry: Entry) -> None:
        try:
            with place.moving(entry.name):
                await _hand_over(place, entry, finish, registry, running)
        # boundary: what fails for one agent must not keep the others
        except Exception as error:  # noqa: BLE001 - logged below
            # it goes on from its last state, as after a sudden end
            said = str(error) or "its process does not answer"
            logger.error("agent %s lost its last words: %s", entry.name, said)
            # it would go on beside the new one; from a host that stays the watch drops it
            if place.leaving and isinstance(error, TimeoutError | HostLostError):
                await running.end(place.handle.name)
        if registry.has(entry):  # nobody has stopped it meanwhile
            watching.restart(entry.name, why, "moved")

    await asyncio.gather(*map(move, entries))


async def hurry_host(place: Place, seconds: float) -> None:
    """Have the agents of a host that is handed over already come to their end sooner.

    Args:
        place: of the host.
        seconds: until the end of its machine.
    """
    logger.warning("host %s ends in %.1f s, sooner than was known", place.handle.name, seconds)
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await place.handle.hurry(seconds * FINISH_SHARE)
    except (TimeoutError, UnavailableError) as error:
        said = str(error) or "it does not answer"
        logger.error("the agents of host %s are not hurried: %s", place.handle.name, said)


async def _hand_over(
    place: Place,
    entry: Entry,
    finish: float,
    registry: Registry,
    running: Running,
) -> None:
    async with asyncio.timeout(finish + _ANSWER_SECONDS):
        handed = await place.handle.hand_over(entry.name, finish)
    if registry.has(entry):
        running.last_words.carry(entry.name, handed.parcels)
        await running.last_words.keep(entry.name, handed.state)
