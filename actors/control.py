"""The control actor: orchestrator and agents of one cluster, in one process on the head.

All that it is made of knows no Ray; here it is put together. The actor holds nothing that the store
does not have, so it may be killed at any moment: Ray starts it again, it takes the lease of the one
before and goes on with the open workflows. Before an orderly end of the head it is told, so that
steps which may not be repeated can end, agents give their states, and the lease is free at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

import ray

from actors.background import keep_going
from actors.composition import Composition, compose
from actors.control_link import NOT_READY
from actors.lease import RENEW_SECONDS, Lease, holder_of, wait_for_lease
from cluster.head import farewell
from ironcliw import logs
from ironcliw.errors import IroncliwError, LeaseLostError, NotFoundError, UnavailableError
from ironcliw.settings import Settings
from ironcliw.store import Store

logger = logging.getLogger(__name__)

LEASE = "actors"
_WAIT_SECONDS = 5.0
# A store that cannot be used now may be so in a while; `up` hears of it before.
_TOLD_SECONDS = 5.0
Answered = tuple[IroncliwError | None, Any]


class Control:
    """The class of the control actor; `actors.service` makes the actor.

    Args:
        settings: As given to `up`.
        code_uri: The project's code for workers in the cloud; None where there are none.
    """

    def __init__(self, settings: Settings, code_uri: str | None = None) -> None:
        logs.configure(settings.log)
        self._settings = settings
        self._code_uri = code_uri
        self._made: Composition | None = None
        self._failed: IroncliwError | None = None
        self._waits = False
        self._closing: asyncio.Task[None] | None = None
        self._stopped = False
        self._started = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._store: Store | None = None
        self._lease: Lease | None = None
        self._door: asyncio.AbstractServer | None = None
        # nobody calls an actor that Ray has restarted by itself: it calls itself
        ray.get_runtime_context().current_actor.run.remote()

    async def run(self) -> None:
        """Take the lease, go on with what is open, and lead until the lease is lost.

        Called by the actor itself.
        """
        try:
            store = await asyncio.to_thread(_open_store, self._settings.store_url)
            self._store = store
            lease = await wait_for_lease(store, LEASE, _holder(), self._note_waiting)
            self._lease = lease
            # already now: to find agents and workflows may take longer than the lease lasts
            leading = asyncio.create_task(self._lead(store, lease))
            made = await compose(self._settings, store, lease, self._code_uri, _this_actor())
            await self._begin(made)
        except IroncliwError as error:
            self._failed = error
        # the boundary of the actor: a bug is told to whoever starts it, and logged
        except Exception as error:
            logger.exception("the control actor could not be put together")
            self._failed = IroncliwError(f"{type(error).__name__}: {error}", code="internal_error")
        if self._failed is not None:
            await self._give_up()
            return
        await leading

    async def _begin(self, made: Composition) -> None:
        """Go on with what is open; all that steps need of us is there before the first goes on."""
        self._made = made
        works = [keep_going(name, work) for name, work in made.background().items()]
        works += [self._until_another_leads(made), made.start()]
        await self._open_door()
        self._tasks = [asyncio.create_task(work) for work in works]
        starting = self._tasks[-1]
        await asyncio.wait([starting])
        if not starting.cancelled():  # by `close`, which is all there is to do then
            starting.result()
            self._waits = False
            self._started.set()

    @property
    def _stopping(self) -> bool:
        return self._closing is not None

    @property
    def _leads(self) -> bool:
        """All that was open goes on."""
        return self._started.is_set() and self._failed is None and not self._stopping

    async def status(self) -> dict[str, Any]:
        """How workflows and agents stand, and who leads; also while this process does not."""
        error = None if self._failed is None else self._failed.message
        if self._made is not None and self._leads:
            assert self._lease is not None, "it was composed with one"
            told = {"state": "leading", "leader": self._lease.holder, "error": None}
            return {**told, **self._made.exporter.status()}
        leader = None
        if self._waits and self._store is not None:
            with contextlib.suppress(IroncliwError):
                leader = await asyncio.to_thread(holder_of, self._store, LEASE)
        state = "waiting" if self._waits else "starting"
        if self._stopping or error is not None:
            state = "stopping" if self._stopping else "failed"
        return {"state": state, "leader": leader, "error": error}

    async def close(self) -> None:
        """Bring to an end what can be; the process itself is ended by whoever asked for this.

        Whoever asks while it comes to an end waits for that, too, and cannot break it off.
        """
        if self._made is None:
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(self._made))
        await asyncio.shield(self._closing)

    async def _close(self, made: Composition) -> None:
        store, lease = self._store, self._lease
        assert store is not None, "it was composed with one"
        assert lease is not None, "it was composed with one"
        for task in self._tasks:
            task.cancel()
        try:
            await made.close(self._settings.cluster.stop_seconds)
            self._stopped = True
            await asyncio.to_thread(_release, store, lease)
            logger.info("workflows and agents have come to an end")
        # the boundary of the actor: the head ends all the same, and goes on as after a crash
        except Exception:
            logger.exception("workflows and agents did not come to an end in order")

    async def ready(self) -> IroncliwError | None:
        """Wait until it leads, or waits for another one to end; why it could do neither."""
        while not self._started.is_set() and not self._waits:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._started.wait(), 0.05)
        return self._failed

    async def answer(self, part: str, method: str, arguments: Mapping[str, Any]) -> Answered:
        """Call a method of one of the parts; its error comes back as a value.

        Args:
            part: `workflows` or `agents`.
            method: One of the part's `METHODS`.
            arguments: Its arguments.
        """
        try:
            made = await self._composition()
            found = made.parts.get(part)
            if found is None or method not in found.METHODS:
                raise NotFoundError(f"the control actor has no {part}.{method}")
            return None, await getattr(found, method)(**arguments)
        except IroncliwError as error:
            return error, None

    async def step_started(self, key: str, attempt: int, node: str) -> None:
        """An attempt of a step has begun on a node; sent by the attempt itself."""
        if self._made is not None:
            self._made.executor.started_at(key, attempt, node)

    async def _composition(self) -> Composition:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._started.wait(), _WAIT_SECONDS)
        if self._failed is not None:
            raise self._failed
        if self._stopping:
            raise UnavailableError("the head is being stopped", retry_after=5.0, code="stopping")
        if self._made is None or not self._leads:
            why = "another head leads the workflows of this store" if self._waits else "it starts"
            raise UnavailableError(
                f"workflows and agents are not ready: {why}", retry_after=1.0, code=NOT_READY
            )
        return self._made

    async def _lead(self, store: Store, lease: Lease) -> None:
        """Renew the lease; whoever lost it must not go on as if it led.

        A process that ends is started again by Ray, and then waits for its turn.
        """
        while not self._stopped:
            try:
                await asyncio.to_thread(_renew, store, lease)
            except LeaseLostError as error:
                if not self._stopped:  # given back meanwhile
                    _end(error)
            except IroncliwError as error:
                logger.warning("the lease could not be renewed: %s", error)
            await asyncio.sleep(RENEW_SECONDS)

    async def _open_door(self) -> None:
        try:
            self._door = await farewell.listen(
                self._settings.ray_temp_dir, "workflows and agents", self.close
            )
        except OSError as error:
            logger.warning("`ironcliw down` does not wait for workflows and agents: %s", error)

    async def _give_up(self) -> None:
        """Tell whoever asks why nothing can start, and try again as a new process."""
        logger.error("workflows and agents cannot start: %s", self._failed)
        self._started.set()
        # steps may have begun, and come to their end in order
        await asyncio.gather(asyncio.sleep(_TOLD_SECONDS), self.close())
        os._exit(1)

    async def _until_another_leads(self, made: Composition) -> None:
        _end(await made.orchestrator.until_ended())

    def _note_waiting(self) -> None:
        logger.warning("another process leads the workflows of this store; waiting for its end")
        self._waits = True


def _end(reason: Exception) -> None:
    logger.error("%s; the control actor ends, and waits as a new one", reason)
    os._exit(1)


def _open_store(url: str) -> Store:
    store = Store(url)
    store.migrate()
    return store


def _renew(store: Store, lease: Lease) -> None:
    with store.write() as connection:
        lease.renew(connection)


def _release(store: Store, lease: Lease) -> None:
    with store.write() as connection:
        lease.release(connection)


def _holder() -> str:
    return f"{socket.gethostname()} process {os.getpid()}"


def _this_actor() -> Any:
    return ray.get_runtime_context().current_actor
