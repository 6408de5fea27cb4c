"""Two sides in one process: real hosts with fake models, and faults of the one in the cloud."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from ironcliw.catalog import Catalog
from ironcliw.errors import IroncliwError, ModelLoadError, OverloadedError, RequestError
from ironcliw.settings import Settings
from serve.engines.protocol import PackedTokens
from serve.failover_router import FailoverRouter
from serve.failover_variant import FailoverVariant
from serve.generation.protocol import Delta, GenerationJob
from serve.heartbeat import with_heartbeat
from serve.host import Computed, ModelHost
from serve.local_room import LocalRoom
from serve.variants import (
    LocalVariant,
    ModelLoadingError,
    NotSentError,
    ReplicaLostError,
    ReplicaSilentError,
)

GIGABYTE = 1_000_000_000
ASKED_SECONDS = 0.05
TEXT = "The quick brown fox jumps over the lazy dog."
MODELS: dict[str, Any] = {
    "cloudy": {"source": "fake:8", "task": "embedding", "placement": "spot"},
    "homely": {"source": "fake:8", "task": "embedding", "placement": "local"},
    "either": {"source": "fake:8", "task": "embedding"},
    "huge": {"source": "fake:8", "task": "embedding", "bytes": 8 * GIGABYTE},
    "judge": {"source": "fake:3", "task": "classifier", "placement": "spot"},
    "talker": {
        "source": f"fake:300?context=256&text={TEXT}",
        "task": "generation",
        "placement": "spot",
    },
    "random": {"source": "fake:256?context=256", "task": "generation", "placement": "spot"},
    "slow": {
        "source": f"fake:300?context=256&seconds=0.02&text={TEXT}",
        "task": "generation",
        "placement": "spot",
    },
}
ERRORS: dict[str, IroncliwError] = {
    "lost": ReplicaLostError("a replica was lost"),
    "loading": ModelLoadingError("the model is being loaded"),
    "unable": ModelLoadError("no such file"),
    "full": OverloadedError("too much waits", retry_after=7.0),
    "wrong": RequestError("no such token"),
    "withdrawn": NotSentError("no longer"),
}


class FaultySide(LocalVariant):
    """One side.

    Attributes:
        faults: What happens to the next calls; `ok` or none: an answer.
        there: Whether a replica is there; without one every call waits.
        calls: How often each method was called.
        given_up: Calls that were cancelled while they hung.
        after: Tokens of an answer before a fault of `generate` shows.
    """

    def __init__(self, name: str, host: ModelHost, *, there: bool = True) -> None:
        super().__init__(host)
        self.name = name
        self.node = host.node
        self.faults: deque[str] = deque()
        self.there = asyncio.Event()
        if there:
            self.there.set()
        self.calls: Counter[str] = Counter()
        self.jobs: list[GenerationJob] = []
        self.given_up = 0
        self.after = 0

    async def embed(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        await self._meet("embed", deadline)
        return await super().embed(model_id, batch, deadline)

    async def classify(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        await self._meet("classify", deadline)
        return await super().classify(model_id, batch, deadline)

    async def class_labels(self, model_id: str, deadline: float) -> tuple[str, ...]:
        await self._meet("class_labels", deadline)
        return await super().class_labels(model_id, deadline)

    async def stats(self) -> dict[str, Any]:
        self.calls["stats"] += 1
        try:
            async with asyncio.timeout(ASKED_SECONDS):
                await self.there.wait()
        except TimeoutError:
            raise ReplicaSilentError("nobody is there") from None
        return await super().stats()

    async def generate(
        self, model_id: str, job: GenerationJob, deadline: float
    ) -> AsyncGenerator[Delta, None]:
        self.calls["generate"] += 1
        self.jobs.append(job)
        fault = self.faults.popleft() if self.faults else "ok"
        if fault in ERRORS and not self.after:
            raise ERRORS[fault]
        count = 0
        deltas = super().generate(model_id, job, deadline)
        if self.name == "spot":
            deltas = with_heartbeat(deltas, self.node, 0.02)
        async with aclosing(_single_tokens(deltas)) as source:
            async for delta in source:
                if fault != "ok" and count >= self.after and delta.tokens:
                    await self._fail(fault, deadline)
                if time.monotonic() > deadline:
                    raise ReplicaSilentError("no answer by the deadline")  # as a Serve handle does
                yield delta
                count += len(delta.tokens)

    async def _meet(self, method: str, deadline: float) -> None:
        self.calls[method] += 1
        fault = self.faults.popleft() if self.faults else "ok"
        if fault == "ok" and not self.there.is_set():
            fault = "silent"
        if fault != "ok":
            await self._fail(fault, deadline)

    async def _fail(self, fault: str, deadline: float) -> None:
        if fault in ERRORS:
            raise ERRORS[fault]
        try:
            await asyncio.sleep(max(0.0, deadline - time.monotonic()))
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        raise ReplicaSilentError("a replica said nothing")


async def _single_tokens(
    deltas: AsyncGenerator[Delta, None],
) -> AsyncGenerator[Delta, None]:
    async with aclosing(deltas):
        async for delta in deltas:
            for token in delta.tokens[:-1]:
                yield Delta((token,))
            yield delta if len(delta.tokens) < 2 else Delta(delta.tokens[-1:], delta.finish)


class Figures:
    """What a `FailoverObserver` was told."""

    def __init__(self) -> None:
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.failovers: Counter[str] = Counter()
        self.phases: list[str] = []

    def on_attempt(self, variant: str, outcome: str) -> None:
        self.attempts[variant, outcome] += 1

    def on_failover(self, reason: str) -> None:
        self.failovers[reason] += 1

    def on_phase(self, phase: str) -> None:
        self.phases.append(phase)


class TwoSides:
    """Both sides and the variant before them.

    Args:
        folder: For whatever the hosts keep.
        there: Whether the cloud has a replica.
        attempt_seconds: A replica in the cloud that is silent for so long is given up.
        news: What the cluster said last.
    """

    def __init__(
        self,
        folder: Path,
        *,
        there: bool = True,
        attempt_seconds: float = 30.0,
        news: str | None = None,
        **serve: Any,
    ) -> None:
        limits = {"memory_bytes": 50 * GIGABYTE, **serve}
        self.settings = Settings(state_dir=folder, serve=limits, models=MODELS)
        self.catalog = Catalog(self.settings.models)
        self.hosts = [
            ModelHost(self.catalog, self.settings.serve, folder / "models", node)
            for node in ("home", "vm-1")
        ]
        self.local = FaultySide("local", self.hosts[0])
        self.spot = FaultySide("spot", self.hosts[1], there=there)
        self.figures = Figures()
        self.router = FailoverRouter(
            self.local,
            self.spot,
            self.catalog,
            LocalRoom(self.catalog, (), free=lambda: 16 * GIGABYTE),
            attempt_seconds,
            observer=self.figures,
            why=lambda: news,
        )
        self.variant = FailoverVariant(self.router)

    async def wake(self) -> None:
        """Have the cloud take requests."""
        self.router.way("cloudy", time.monotonic() + 60)
        self.router.policy.next(time.monotonic(), self.router.way("cloudy", 1e12).want)
        self.router.follow()
        await self.phase("awake")

    async def phase(self, name: str) -> None:
        """Wait until the cloud is in this phase."""
        async with asyncio.timeout(60):
            while self.router.policy.phase != name:
                await self.router.until(time.monotonic() + 1)

    async def close(self) -> None:
        """Stop."""
        await self.router.close()
        for host in self.hosts:
            await host.close()


@asynccontextmanager
async def two_sides(folder: Path, **options: Any) -> AsyncIterator[TwoSides]:
    """Both sides for the length of a `with` block."""
    sides = TwoSides(folder, **options)
    try:
        yield sides
    finally:
        await sides.close()
