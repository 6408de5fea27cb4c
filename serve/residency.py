"""The models in this process: carries out what `serve.cache` decides, on asyncio and threads.

Loads block, so they run in a pool of as many threads as loads may be under way; engines are closed
in a thread of their own, so that room is made while loads go on. Every method but
`report_progress` belongs to the one event loop that the residency is used from.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from ironcliw.errors import IroncliwError, ModelLoadError, UnavailableError
from serve.cache import ModelCache
from serve.cache_states import Entry, Instruction, Load, Ready, Refuse, State
from serve.model_events import EventHub, ModelEvent

log = logging.getLogger(__name__)


class ResidentEngine(Protocol):
    """What an engine has to have to be kept here; `EmbeddingEngine` has it."""

    @property
    def resident_bytes(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def close(self) -> None: ...


EngineT = TypeVar("EngineT", bound=ResidentEngine)


@dataclass(frozen=True, slots=True)
class ModelStats:
    """One model's figures.

    Attributes:
        state: `absent`, `queued`, `loading`, `ready`, `in_use` or `unloading`.
        bytes: Counted against the memory budget now.
        uses: How often `use` handed it out.
        items: How many items the recorded calls held.
        average_ms: Mean milliseconds of a recorded call; None before the first.
        last_used: Unix time in seconds; None if never.
        reload_seconds: What a load takes; None before the first.
        error: Why the last load failed; None once one succeeded.
    """

    id: str
    state: str
    device: str | None
    precision: str | None
    bytes: int
    pinned: bool
    loads: int
    uses: int
    items: int
    average_ms: float | None
    last_used: float | None
    reload_seconds: float | None
    error: str | None

    @classmethod
    def absent(cls, model_id: str) -> ModelStats:
        """Of a model that was never asked for."""
        return cls(
            id=model_id,
            state=State.ABSENT.value,
            device=None,
            precision=None,
            bytes=0,
            pinned=False,
            loads=0,
            uses=0,
            items=0,
            average_ms=None,
            last_used=None,
            reload_seconds=None,
            error=None,
        )


@dataclass(slots=True)
class _Tally:
    uses: int = 0
    calls: int = 0
    items: int = 0
    milliseconds: float = 0.0
    last_used: float | None = None


class ModelResidency(Generic[EngineT]):
    """Hands out engines, loading them when they are first asked for, within a budget of bytes.

    Any number may use an engine at a time; an engine that allows one caller only is for its owner
    to guard. A waiter that is cancelled does not cancel the load.

    Args:
        cache: The decisions.
        load: Loads a model, blocking; called in a thread.
        estimate: Bytes a model will hold, from its files; raises `ModelNotFoundError` or
            `ModelLoadError` where there are none. Called in the event loop at every use, so that it
            has to be quick.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        cache: ModelCache,
        load: Callable[[str], EngineT],
        estimate: Callable[[str], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._load = load
        self._estimate = estimate
        self._clock = clock
        self._engines: dict[str, EngineT] = {}
        self._waiters: dict[str, list[asyncio.Future[EngineT]]] = defaultdict(list)
        self._departures: dict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._tallies: dict[str, _Tally] = defaultdict(_Tally)
        self._ready: set[str] = set()
        self._hub = EventHub()
        self._loaders = ThreadPoolExecutor(cache.max_concurrent_loads, "model-load")
        self._closer = ThreadPoolExecutor(1, "model-close")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @asynccontextmanager
    async def use(self, model_id: str) -> AsyncIterator[EngineT]:
        """The engine, loaded if need be, and kept in memory until the block ends.

        Raises:
            ModelNotFoundError: `estimate` does not know the model.
            ModelLoadError: It could not be loaded; the next use tries again.
            MemoryBudgetError: The memory budget has no room for it.
            UnavailableError: The residency is closed.
        """
        engine = await self._acquire(model_id)
        tally = self._tallies[model_id]
        tally.uses, tally.last_used = tally.uses + 1, time.time()
        try:
            yield engine
        finally:
            self._release(model_id)

    async def load(self, model_id: str, pin: bool = False, ttl: float | None = None) -> None:
        """Load a model ahead of its first use.

        Args:
            model_id: Its name.
            pin: Keep it until it is unpinned or unloaded by force.
            ttl: Unload it after so many idle seconds; None leaves its time-to-live as it is.

        Raises:
            RequestError: `ttl` is not above 0.
            IroncliwError: Whatever `use` raises.
        """
        if ttl is not None:
            self._estimate(model_id)  # an unknown model must not leave an entry
            self._cache.set_ttl(model_id, ttl)
        await self._acquire(model_id)
        try:
            if pin:
                self.pin(model_id)
        finally:
            self._release(model_id)

    def pin(self, model_id: str) -> None:
        """Keep a loaded model; raises ConflictError if it is not loaded."""
        self._carry_out(self._cache.pin(self._clock(), model_id))

    def unpin(self, model_id: str) -> None:
        """Let a model be evicted again."""
        self._carry_out(self._cache.unpin(self._clock(), model_id))

    async def unload(self, model_id: str, force: bool = False) -> None:
        """Unload a model once it is idle, and return when its memory is free.

        Raises:
            ConflictError: It is pinned and `force` is not given.
        """
        self._carry_out(self._cache.unload(self._clock(), model_id, force))
        entry = self._cache.entries.get(model_id)
        if entry is not None and entry.draining:
            gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._departures[model_id].append(gone)
            await gone

    async def close(self) -> None:
        """Turn waiters away, unload everything once it is idle, and end the threads."""
        self._closed = True
        for model_id, waiters in list(self._waiters.items()):
            for waiter in [waiter for waiter in waiters if not waiter.done()]:
                waiters.remove(waiter)
                waiter.set_exception(_closed())
                self._carry_out(self._cache.withdraw(self._clock(), model_id))
        await asyncio.gather(*(self.unload(model, force=True) for model in self._cache.entries))
        if self._timer is not None:
            self._timer.cancel()
        self._loaders.shutdown()
        self._closer.shutdown()

    def record(self, model_id: str, milliseconds: float, items: int) -> None:
        """Count a call of `items` items that took so many milliseconds into the averages."""
        tally = self._tallies[model_id]
        tally.calls, tally.items = tally.calls + 1, tally.items + items
        tally.milliseconds += milliseconds

    def stats(self) -> list[ModelStats]:
        """The figures of every model ever asked for, by name."""
        return [self._stats_of(entry) for _, entry in sorted(self._cache.entries.items())]

    @property
    def engines(self) -> Mapping[str, EngineT]:
        """The engines that are loaded now, by model."""
        return self._engines

    def report_progress(self, model_id: str, fraction: float) -> None:
        """Tell the subscribers how far a load is, 0 to 1; to be called from the loading thread."""
        assert self._loop is not None, "nothing is being loaded"
        event = ModelEvent(model_id, State.LOADING, fraction)
        self._loop.call_soon_threadsafe(self._hub.publish, event)

    def events(self) -> AbstractContextManager[AsyncIterator[ModelEvent]]:
        """Changes from now on, endless: `with residency.events() as events: async for ...`."""
        return self._hub.subscribe()

    async def _acquire(self, model_id: str) -> EngineT:
        if self._closed:
            raise _closed()
        estimate = self._estimate(model_id)
        instructions = self._cache.request(self._clock(), model_id, estimate)
        entry = self._cache.entries[model_id]
        if model_id in self._ready and not entry.waiting:
            return self._engines[model_id]  # granted at once: all that there is to carry out
        waiter: asyncio.Future[EngineT] = asyncio.get_running_loop().create_future()
        self._waiters[model_id].append(waiter)
        self._carry_out(instructions)
        if entry.state is State.QUEUED and entry.waiting == 1:
            self._hub.publish(ModelEvent(model_id, State.QUEUED))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters[model_id]:
                self._waiters[model_id].remove(waiter)
                self._carry_out(self._cache.withdraw(self._clock(), model_id))
            elif not waiter.cancelled() and waiter.exception() is None:
                self._release(model_id)
            raise

    def _release(self, model: str) -> None:
        instructions = self._cache.release(self._clock(), model)
        if instructions:
            self._carry_out(instructions)
        else:  # the way of most uses: only this model's deadline can be new
            self._wake_at(self._cache.deadline_of(model))

    def _carry_out(self, instructions: list[Instruction]) -> None:
        todo = deque(instructions)
        while todo:
            match todo.popleft():
                case Load(model):
                    self._start_load(model)
                case Ready(model):
                    todo.extend(self._grant(model))
                case Refuse(model, error):
                    self._refuse(model, error)
                case instruction:
                    self._start_close(instruction.model)
        for model in [m for m in self._departures if not self._cache.entries[m].draining]:
            for gone in self._departures.pop(model):
                if not gone.done():
                    gone.set_result(None)
        self._wake_at(self._cache.next_deadline())

    def _start_load(self, model: str) -> None:
        self._hub.publish(ModelEvent(model, State.LOADING, 0.0))
        self._loop = asyncio.get_running_loop()
        loading = self._loop.run_in_executor(self._loaders, self._timed_load, model)
        loading.add_done_callback(partial(self._on_loaded, model))

    def _timed_load(self, model: str) -> tuple[EngineT, float]:
        begin = self._clock()
        return self._load(model), self._clock() - begin

    def _on_loaded(self, model: str, loading: asyncio.Future[tuple[EngineT, float]]) -> None:
        cause, now = loading.exception(), self._clock()
        if cause is not None:
            # an error of ours says all that there is to know; another is a bug, or the system's
            foreseen = isinstance(cause, IroncliwError)
            log.error("loading %s failed: %s", model, cause, exc_info=None if foreseen else cause)
            self._carry_out(self._cache.load_failed(now, model, _load_error(model, cause)))
            return
        engine, seconds = loading.result()
        self._engines[model] = engine
        size = engine.resident_bytes
        log.info("loaded %s: %d bytes on %s in %.3f s", model, size, engine.device, seconds)
        self._carry_out(self._cache.loaded(now, model, size, seconds))

    def _grant(self, model: str) -> list[Instruction]:
        """Hand the engine to all who wait; what those give back who were cancelled meanwhile."""
        if model not in self._ready:
            self._ready.add(model)
            self._hub.publish(ModelEvent(model, State.READY, 1.0))
        given_back: list[Instruction] = []
        for waiter in self._waiters.pop(model, []):
            if waiter.done():
                given_back += self._cache.release(self._clock(), model)
            else:
                waiter.set_result(self._engines[model])
        return given_back

    def _refuse(self, model: str, error: IroncliwError) -> None:
        self._hub.publish(ModelEvent(model, "failed", error=error.message))
        for waiter in self._waiters.pop(model, []):
            if not waiter.done():
                waiter.set_exception(error)

    def _start_close(self, model: str) -> None:
        self._hub.publish(ModelEvent(model, State.UNLOADING))
        self._ready.discard(model)
        engine = self._engines.pop(model)
        closing = asyncio.get_running_loop().run_in_executor(self._closer, engine.close)
        closing.add_done_callback(partial(self._on_closed, model))

    def _on_closed(self, model: str, closing: asyncio.Future[None]) -> None:
        if (error := closing.exception()) is not None:
            # its bytes count as free all the same: nothing refers to the engine any more
            log.error("closing %s failed; its memory may not be free", model, exc_info=error)
        log.info("unloaded %s", model)
        self._hub.publish(ModelEvent(model, State.ABSENT))
        self._carry_out(self._cache.unloaded(self._clock(), model))

    def _wake_at(self, deadline: float | None) -> None:
        """Set the timer unless it fires earlier; one that fires too early only asks again."""
        if deadline is None or self._closed:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, deadline - self._clock())
        if self._timer is None or at < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._carry_out(self._cache.tick(self._clock()))

    def _stats_of(self, entry: Entry) -> ModelStats:
        engine, tally = self._engines.get(entry.model), self._tallies[entry.model]
        return ModelStats(
            id=entry.model,
            state="in_use" if entry.users else entry.state.value,
            device=engine.device if engine else None,
            precision=engine.precision if engine else None,
            bytes=entry.bytes,
            pinned=entry.pinned,
            loads=entry.loads,
            uses=tally.uses,
            items=tally.items,
            average_ms=tally.milliseconds / tally.calls if tally.calls else None,
            last_used=tally.last_used,
            reload_seconds=entry.reload_seconds if entry.loads else None,
            error=entry.last_error,
        )


def _closed() -> UnavailableError:
    return UnavailableError("this replica is closing its models; send the request again")


def _load_error(model: str, cause: BaseException) -> IroncliwError:
    if isinstance(cause, IroncliwError):
        return cause
    error = ModelLoadError(f"model {model!r} could not be loaded: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
