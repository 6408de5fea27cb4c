"""The model residency on a real event loop and real threads, with engines that only count bytes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict

import pytest

from ironcliw.errors import (
    ConflictError,
    MemoryBudgetError,
    ModelLoadError,
    ModelNotFoundError,
    UnavailableError,
)
from serve.cache import ModelCache
from serve.residency import ModelResidency
from tests.waiting import until

SIZES = {"a": 40, "b": 40, "c": 40, "broken": 10}
BUDGET = 100


class CountingEngine:
    """Holds nothing but the number of bytes it says it holds."""

    device = "cpu"
    precision = "float32"

    def __init__(self, size: int) -> None:
        self.resident_bytes = size
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Workshop:
    """Loads engines in the residency's threads; `gate` holds every load while it is clear."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.loads: Counter[str] = Counter()
        self.under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()

    def load(self, model: str) -> CountingEngine:
        with self._lock:
            self.loads[model] += 1
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            assert self.gate.wait(60), "the test never opened the gate"
            if model == "broken":
                raise OSError("weights end after 12 bytes")
            return CountingEngine(SIZES[model])
        finally:
            with self._lock:
                self.under_way -= 1

    def estimate(self, model: str) -> int:
        if model not in SIZES:
            raise ModelNotFoundError(f"no model {model!r}; known: {', '.join(SIZES)}")
        return SIZES[model]


Residency = ModelResidency[CountingEngine]


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
async def residency(workshop: Workshop) -> AsyncIterator[Residency]:
    made = ModelResidency(ModelCache(BUDGET), workshop.load, workshop.estimate)
    yield made
    workshop.gate.set()
    await asyncio.wait_for(made.close(), 60)


def state(residency: Residency, model: str) -> str:
    return {stats.id: stats.state for stats in residency.stats()}.get(model, "absent")


async def use(residency: Residency, model: str) -> CountingEngine:
    async with residency.use(model) as engine:
        assert not engine.closed
        assert state(residency, model) == "in_use"
        return engine


async def test_many_waiters_share_one_load(residency: Residency, workshop: Workshop) -> None:
    engines = await asyncio.gather(*(use(residency, "a") for _ in range(20)))
    assert len(set(map(id, engines))) == 1
    assert await use(residency, "a") is engines[0]
    assert workshop.loads == {"a": 1}


async def test_two_loads_at_a_time(residency: Residency, workshop: Workshop) -> None:
    workshop.gate.clear()
    tasks = [asyncio.create_task(use(residency, model)) for model in "abc"]
    await until(lambda: workshop.under_way == 2)
    assert [state(residency, model) for model in "abc"] == ["loading", "loading", "queued"]
    workshop.gate.set()
    await asyncio.gather(*tasks)
    assert workshop.most_under_way == 2


async def test_the_budget_evicts_an_idle_engine_and_closes_it(residency: Residency) -> None:
    first = await use(residency, "a")
    second = await use(residency, "b")
    third = await use(residency, "c")
    assert [first.closed, second.closed, third.closed].count(True) == 1
    assert not third.closed
    assert sum(stats.bytes for stats in residency.stats()) <= BUDGET


async def test_an_engine_in_use_stays_open_while_others_wait(residency: Residency) -> None:
    async with residency.use("a") as first, residency.use("b") as second:
        waiting = asyncio.create_task(use(residency, "c"))
        await until(lambda: state(residency, "c") == "queued")
        assert not first.closed
        assert not second.closed
    await waiting
    assert first.closed or second.closed


async def test_waiting_for_engines_in_use_ends_with_an_error(workshop: Workshop) -> None:
    cache = ModelCache(BUDGET, wait_seconds=0.02)
    residency = ModelResidency(cache, workshop.load, workshop.estimate)
    async with residency.use("a"), residency.use("b"):
        with pytest.raises(MemoryBudgetError, match=r"'c' needs .* a \(.*in use\), b \("):
            await use(residency, "c")
    await residency.close()


async def test_a_cancelled_waiter_leaves_the_load_alone(
    residency: Residency, workshop: Workshop
) -> None:
    workshop.gate.clear()
    impatient = asyncio.create_task(use(residency, "a"))
    patient = asyncio.create_task(use(residency, "a"))
    await until(lambda: workshop.under_way == 1)
    impatient.cancel()
    await asyncio.wait([impatient])
    assert impatient.cancelled()
    workshop.gate.set()
    await patient
    assert workshop.loads == {"a": 1}
    assert state(residency, "a") == "ready"


@pytest.mark.parametrize("hops", range(6))
async def test_a_waiter_cancelled_as_the_load_ends_gives_its_use_back(hops: int) -> None:
    # each hop is one more turn of the event loop between the end of the load and the cancellation
    def cancel(hops_left: int) -> None:
        if hops_left:
            loop.call_soon(cancel, hops_left - 1)
        else:
            task.cancel()

    def load(model: str) -> CountingEngine:
        loop.call_soon_threadsafe(cancel, hops)
        return CountingEngine(SIZES[model])

    loop = asyncio.get_running_loop()
    residency: Residency = ModelResidency(ModelCache(BUDGET), load, SIZES.__getitem__)
    task = asyncio.create_task(use(residency, "a"))
    await asyncio.wait([task])
    await until(lambda: state(residency, "a") == "ready")
    await asyncio.wait_for(residency.close(), 60)


async def test_a_failed_load_is_the_same_error_for_all_and_tried_again(
    residency: Residency, workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [asyncio.create_task(use(residency, "broken")) for _ in range(3)]
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert len(set(map(id, errors))) == 1
    with pytest.raises(ModelLoadError, match=r"'broken' .* OSError: weights end after 12 bytes"):
        await use(residency, "broken")
    assert workshop.loads == {"broken": 2}
    [stats] = residency.stats()
    assert (stats.state, stats.bytes, stats.loads) == ("absent", 0, 0)
    assert stats.error is not None
    assert "weights end" in stats.error
    assert "loading broken failed" in caplog.text
    await use(residency, "a")


async def test_an_unknown_model_leaves_no_trace(residency: Residency) -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'x'; known: a"):
        await use(residency, "x")
    with pytest.raises(ModelNotFoundError, match="no model 'x'"):
        await residency.load("x", ttl=1)
    assert residency.stats() == []


async def test_load_ahead_with_a_pin_and_unload_by_force(residency: Residency) -> None:
    await residency.load("a", pin=True)
    engine = await use(residency, "a")
    await use(residency, "b")
    await use(residency, "c")
    assert not engine.closed
    with pytest.raises(ConflictError, match="'a': it is pinned"):
        await residency.unload("a")
    await residency.unload("a", force=True)
    assert engine.closed
    assert state(residency, "a") == "absent"


async def test_unloading_waits_for_the_user(residency: Residency, workshop: Workshop) -> None:
    async with residency.use("a") as engine:
        unloading = asyncio.create_task(residency.unload("a"))
        later = asyncio.create_task(use(residency, "a"))
        await until(lambda: workshop.loads["a"] == 1 and residency.stats()[0].state == "in_use")
        assert not unloading.done()
        assert not engine.closed
    await unloading
    assert engine.closed
    assert await later is not engine
    await residency.unload("never loaded")


async def test_an_idle_model_leaves_by_itself(residency: Residency) -> None:
    await residency.load("a", ttl=0.02)
    await until(lambda: state(residency, "a") == "absent")
    assert residency.stats()[0].loads == 1


async def test_statistics(residency: Residency) -> None:
    await use(residency, "a")
    await use(residency, "a")
    residency.record("a", milliseconds=2.0, items=1)
    residency.record("a", milliseconds=4.0, items=31)
    [stats] = residency.stats()
    assert asdict(stats) == {
        "id": "a",
        "state": "ready",
        "device": "cpu",
        "precision": "float32",
        "bytes": 40,
        "pinned": False,
        "loads": 1,
        "uses": 2,
        "items": 32,
        "average_ms": 3.0,
        "last_used": pytest.approx(time.time(), abs=5),
        "reload_seconds": pytest.approx(0, abs=5),
        "error": None,
    }


async def test_events_tell_the_progress(workshop: Workshop) -> None:
    def load(model: str) -> CountingEngine:
        watched.report_progress(model, 0.5)
        return workshop.load(model)

    watched: Residency = ModelResidency(ModelCache(BUDGET), load, workshop.estimate)
    with watched.events() as events:
        await watched.load("a")
        await watched.unload("a")
        with pytest.raises(ModelLoadError, match="broken"):
            await watched.load("broken")
        seen = []
        async for event in events:
            seen.append((event.model, event.state, event.fraction))
            if event.state == "failed":
                assert event.error is not None
                break
    assert seen == [
        ("a", "loading", 0.0),
        ("a", "loading", 0.5),
        ("a", "ready", 1.0),
        ("a", "unloading", None),
        ("a", "absent", None),
        ("broken", "loading", 0.0),
        ("broken", "loading", 0.5),
        ("broken", "failed", None),
    ]
    await watched.close()


async def test_closing_turns_waiters_away_and_frees_all(workshop: Workshop) -> None:
    residency = ModelResidency(ModelCache(BUDGET), workshop.load, workshop.estimate)
    idle = await use(residency, "a")
    workshop.gate.clear()
    waiting = asyncio.create_task(use(residency, "b"))
    await until(lambda: workshop.under_way == 1)
    closing = asyncio.create_task(residency.close())
    with pytest.raises(UnavailableError, match="closing its models"):
        await waiting
    workshop.gate.set()
    await closing
    assert idle.closed
    assert {stats.state for stats in residency.stats()} == {"absent"}
    with pytest.raises(UnavailableError, match="closing its models"):
        await use(residency, "a")


async def test_a_storm_of_uses_and_cancellations(residency: Residency, workshop: Workshop) -> None:
    tasks = [asyncio.create_task(use(residency, "abc"[i % 3])) for i in range(60)]
    await until(lambda: workshop.loads.total() > 0)
    for task in tasks[::4]:
        task.cancel()
    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    answers = [answer for answer in done if isinstance(answer, CountingEngine)]
    refused = [answer for answer in done if isinstance(answer, asyncio.CancelledError)]
    assert len(answers) + len(refused) == 60
    assert len(answers) >= 45
    assert all(stats.state in ("ready", "absent", "unloading") for stats in residency.stats())
