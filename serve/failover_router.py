"""Failover at work: carries out what `serve.failover.FailoverPolicy` decides, on asyncio.

Each request goes its own `Way`: it asks for the next attempt, makes it, and says how it ended. All
methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from ironcliw.catalog import Catalog
from ironcliw.errors import (
    DeadlineExceededError,
    IroncliwError,
    MemoryBudgetError,
    ModelLoadError,
    OverloadedError,
    UnavailableError,
    UnsupportedError,
)
from serve.failover import FailoverPolicy
from serve.failover_terms import Attempt, Ending, Failure, GiveUp, Phase, Side, Wait, Want
from serve.local_room import LocalRoom
from serve.variants import (
    ModelLoadingError,
    NotSentError,
    ReplicaLostError,
    ReplicaSilentError,
    Variant,
)

logger = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT")

# Between a question that nobody answered and the next.
_ASK_PAUSE = 0.05
# The first that matches.
_ENDINGS: tuple[tuple[type[Exception], Ending], ...] = (
    (ReplicaLostError, Ending.LOST),
    (ReplicaSilentError, Ending.SILENT),
    (ModelLoadingError, Ending.LOADING),
    (NotSentError, Ending.WITHDRAWN),
    (OverloadedError, Ending.OVERLOADED),
    (DeadlineExceededError, Ending.SLOW),
    (TimeoutError, Ending.SLOW),
    (ModelLoadError, Ending.UNABLE),
    (UnsupportedError, Ending.UNABLE),
    (UnavailableError, Ending.UNABLE),  # MemoryBudgetError too
)
# What may be tried in the cloud after it was tried at home.
_AT_HOME = (UnavailableError, OverloadedError)


class FailoverObserver(Protocol):
    """Where the figures of failover go; `serve.metrics` has the one for Ray."""

    def on_attempt(self, variant: str, outcome: str) -> None:
        """An attempt ended: `ok`, an `Ending`, or `error` for what no other side could cure."""
        ...

    def on_failover(self, reason: str) -> None:
        """A request went on elsewhere, or again, after an attempt that ended so."""
        ...

    def on_phase(self, phase: str) -> None:
        """The cloud's side is in this phase now."""
        ...


class FailoverRouter:
    """Both sides, and the state of the cloud's.

    Args:
        local: Replicas at home.
        spot: Replicas in the cloud.
        catalog: Placement of the models.
        room: What fits at home.
        attempt_seconds: A replica in the cloud that is silent for so long is given up.
        observer: Told of attempts.
        why: Blocking; what the cluster last said of its machines.
        clock: Seconds that never decrease; deadlines are on it.
    """

    def __init__(
        self,
        local: Variant,
        spot: Variant,
        catalog: Catalog,
        room: LocalRoom,
        attempt_seconds: float,
        *,
        observer: FailoverObserver | None = None,
        why: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.local = local
        self.spot = spot
        self.room = room
        self.catalog = catalog
        self.attempt_seconds = attempt_seconds
        self.clock = clock
        self.policy = FailoverPolicy()
        self.spot_stats: dict[str, Any] = {}
        self._observer = observer
        self._why = why
        self._changed = asyncio.Event()
        self._phase: Phase | None = None
        self._asking: asyncio.Task[None] | None = None
        self.follow()

    def way(self, model_id: str, deadline: float) -> Way:
        """The way of one request.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        placement = self.catalog[model_id].placement
        return Way(self, Want(model_id, placement, self.room.fits(model_id), deadline))

    async def run(
        self, model_id: str, deadline: float, call: Callable[[Attempt], Awaitable[AnswerT]]
    ) -> tuple[AnswerT, Attempt]:
        """Make attempts until one gives an answer; which one it was comes with it.

        Args:
            model_id: What is asked.
            deadline: Of the request, on the router's clock.
            call: Makes an attempt. Must be idempotent; is cancelled when its time is over.

        Raises:
            IroncliwError: what the last attempt said, or why there was none.
        """
        way = self.way(model_id, deadline)
        while True:
            attempt = await way.next()
            try:
                if attempt.side is Side.LOCAL:
                    answer = await call(attempt)
                else:
                    async with asyncio.timeout(max(0.0, attempt.deadline - self.clock())):
                        answer = await call(attempt)
            except (IroncliwError, TimeoutError) as error:
                way.failed(error)
                continue
            way.worked()
            return answer, attempt

    def variant(self, side: Side) -> Variant:
        """The replicas of a side."""
        return self.local if side is Side.LOCAL else self.spot

    def is_awake(self) -> bool:
        """Whether the cloud's side takes requests."""
        return self.policy.phase is Phase.AWAKE

    def heard(self) -> None:
        """A replica in the cloud said something."""
        self.policy.heard(self.clock())
        self.follow()

    def failed(self, model_id: str, failure: Failure, began: float) -> None:
        """Something that was sent then gave no answer; may be told again by those who waited."""
        self.policy.failed(self.clock(), model_id, failure, began)
        self.follow()

    def observe(self, variant: str, outcome: str) -> None:
        """Count an attempt, and the way on from it."""
        if self._observer is not None:
            self._observer.on_attempt(variant, outcome)
            if outcome not in ("ok", "error"):
                self._observer.on_failover(outcome)

    def follow(self) -> None:
        """Do what the policy's state asks for; call after each event."""
        if self.policy.phase is not self._phase:
            if self._phase is not None:
                logger.info("spot was %s and is %s", self._phase, self.policy.phase)
            self._phase = self.policy.phase
            self._changed.set()
            self._changed = asyncio.Event()
            if self._observer is not None:
                self._observer.on_phase(self._phase)
        if self.policy.asks and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask())

    async def until(self, moment: float) -> None:
        """Sleep until then, or until the phase changes."""
        try:
            async with asyncio.timeout(max(0.0, moment - self.clock())):
                await self._changed.wait()
        except TimeoutError:
            return

    async def status(self) -> dict[str, Any]:
        """The cloud's side as `/v1/status` shows it; its replicas are not asked."""
        now = self.clock()
        reason = self.policy.reason(now)
        known = self.spot_stats if self.is_awake() else {}
        return {
            "name": self.spot.name,
            "state": str(self.policy.phase),
            "reason": await self._explained(reason) if reason else None,
            **{name: value for name, value in known.items() if name != "models"},
        }

    async def refusal(self, model_id: str, step: GiveUp) -> UnavailableError:
        """The error that says why nobody can answer."""
        reason = await self._explained(step.reason)
        return UnavailableError(
            f"{model_id} does not fit on the head now, and {reason}; retry later",
            retry_after=step.retry_after,
            code="spot_unavailable",
        )

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _explained(self, reason: str) -> str:
        news = await asyncio.to_thread(self._why)
        return f"{reason} ({news})" if news else reason

    async def _ask(self) -> None:
        """Ask who is there until the policy has heard enough.

        The question waits in Serve's handle while there is no replica, which is what makes Serve
        start one.
        """
        while self.policy.asks:
            try:
                stats = await self.spot.stats()
            except IroncliwError as error:
                logger.debug("spot: %s", error)
                self.policy.unanswered(self.clock())
                self.follow()
                await asyncio.sleep(_ASK_PAUSE)
            else:
                self.spot_stats = stats
                self.heard()


class Way:
    """One request's attempts.

    Args:
        router: Whose request it is.
        want: What is wanted.
    """

    def __init__(self, router: FailoverRouter, want: Want) -> None:
        self._router = router
        self.want = want
        self._failures: list[Failure] = []
        self._errors: dict[Side, Exception] = {}
        self._attempt: Attempt | None = None
        self._began = 0.0

    async def next(self) -> Attempt:
        """The attempt to make now, once it can be made.

        Raises:
            IroncliwError: there is none: what the attempts so far said, or why there was none.
        """
        router = self._router
        while True:
            now = router.clock()
            step = router.policy.next(now, self.want, self._failures)
            router.follow()
            match step:
                case Attempt():
                    self._attempt, self._began = step, now
                    return step
                case Wait():
                    await router.until(step.until)
                case GiveUp():
                    raise await self._end(step)

    def failed(self, error: Exception) -> None:
        """The attempt ended with this error.

        Raises:
            Exception: that error, where no other attempt could do better.
        """
        assert self._attempt is not None, "next comes first"
        side = self._attempt.side
        ending = _ending(side, error)
        if ending is None:
            self._router.observe(side, "error")
            raise error
        failure = Failure(side, ending)
        logger.info("an attempt for %s ended: %s (%s)", self.want.model, failure.why, error)
        self._failures.append(failure)
        self._errors[side] = error
        self._router.observe(side, ending)
        self._router.failed(self.want.model, failure, self._began)

    def worked(self) -> None:
        """The attempt gave an answer."""
        assert self._attempt is not None, "next comes first"
        side = self._attempt.side
        self._router.observe(side, "ok")
        if side is Side.SPOT:
            self._router.policy.worked(self._router.clock())
            self._router.follow()

    async def _end(self, step: GiveUp) -> Exception:
        """The error to end with: of the side at home, which is the last resort, if it was asked."""
        error = self._errors.get(Side.LOCAL) or self._errors.get(Side.SPOT)
        if error is None and self._router.clock() >= self.want.deadline:
            error = TimeoutError()
        if step.by_state or error is None or isinstance(error, (ModelLoadingError, NotSentError)):
            return await self._router.refusal(self.want.model, step)
        if isinstance(error, TimeoutError):
            return DeadlineExceededError("the request was not answered by its deadline; allow more")
        return error


def _ending(side: Side, error: Exception) -> Ending | None:
    """How an attempt ended; None: another one would end so as well."""
    if side is Side.LOCAL and not isinstance(error, _AT_HOME):
        return None
    if side is Side.LOCAL and isinstance(error, MemoryBudgetError):
        return Ending.UNABLE
    return next((ending for kind, ending in _ENDINGS if isinstance(error, kind)), None)
