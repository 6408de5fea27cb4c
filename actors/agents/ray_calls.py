"""Calls to hosts through Ray, whose errors become ours."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

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
    except RayActorError as error:
        raise HostLostError(
            f"the process that ran the agent is gone: {_line(error)}; it is started again"
        ) from error
    except RayError as error:
        raise UnavailableError(f"a host could not be asked: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
