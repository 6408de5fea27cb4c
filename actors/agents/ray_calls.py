"""Calls to hosts through Ray, whose errors become ours."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError

from actors.agents.link import HostGoneError, HostLostError, Outcome
from actors.agents.messages import Parcel
from actors.control_link import NAMESPACE
from ironcliw.errors import UnavailableError


class RayRemote:
    """The way to a host.

    Args:
        name: of the host.
        actor: Ray's handle; None: it is looked up at the first call.
    """

    def __init__(self, name: str, actor: Any = None) -> None:
        self.name = name
        self._actor = actor
        self._finding = asyncio.Lock()

    @classmethod
    def named(cls, name: str) -> RayRemote:
        """The way to a host of this name, which may be gone."""
        return cls(name)

    async def deliver(self, sender: str, parcels: list[Parcel]) -> list[Outcome | None]:
        """See `Remote.deliver`."""
        actor = self._actor or await self.actor()
        # bytes: Ray would take longer over a list of objects than the whole rest takes
        call = actor.deliver.remote(sender, pickle.dumps(parcels, protocol=5))
        found: list[Outcome | None] = pickle.loads(await answer_of(call))
        return found

    async def collect(self, sender: str) -> list[tuple[str, Outcome]]:
        """See `Remote.collect`."""
        actor = self._actor or await self.actor()
        found = pickle.loads(await answer_of(actor.collect.remote(sender)))
        outcomes: list[tuple[str, Outcome]] = found
        return outcomes

    async def actor(self) -> Any:
        """Ray's handle.

        Raises:
            HostGoneError: there is no such actor any more.
        """
        if self._actor is None:
            async with self._finding:  # the first calls leave in the order in which they came
                await self._find()
        return self._actor

    async def _find(self) -> None:
        if self._actor is not None:
            return
        try:
            # it asks the control service, and so may block
            self._actor = await asyncio.to_thread(ray.get_actor, self.name, NAMESPACE)
        except (ValueError, RayError) as error:
            raise HostGoneError(f"host {self.name!r} is gone: {_line(error)}") from error


async def answer_of(call: Awaitable[Any]) -> Any:
    """What a call to a host returns.

    Raises:
        HostLostError: its process ended, or cannot be reached.
        UnavailableError: Ray could not carry the call out.
    """
    try:
        return await call
    except (RayActorError, OutOfMemoryError, NodeDiedError) as error:
        raise _lost(error) from error
    except RayError as error:
        raise UnavailableError(f"a host could not be asked: {_line(error)}") from error


def how_it_ended(error: RayError) -> str:
    """How the process of a host ended, for people."""
    # Ray keeps the cause as a text alone
    said = str(error)
    if isinstance(error, OutOfMemoryError):
        return "its process was ended because the machine ran out of memory"
    if isinstance(error, NodeDiedError) or "its node has died" in said:
        return "its machine is gone"
    if "killed by `ray.kill`" in said:
        return "its process was ended by its supervisor"
    if "worker process has died" in said:
        return "its process was killed, or crashed in native code"
    return f"its process is gone: {_line(error)}"


def _lost(error: RayError) -> HostLostError:
    how = how_it_ended(error)
    lost = HostLostError(
        f"the agent is lost: {how}; it is started again, and `ironcliw agents show NAME` tells why"
    )
    lost.how = how
    return lost


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
