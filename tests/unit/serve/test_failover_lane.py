"""Batches that change sides: what a client gets when the cloud sleeps, dies, stalls or is cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.errors import (
    DeadlineExceededError,
    MemoryBudgetError,
    ModelLoadError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from ironcliw.schemas import EmbeddingRequest
from serve.decisions.logits import SequenceClassifiers
from serve.embeddings import EmbeddingResult, EmbeddingService
from serve.engines.protocol import PackedTokens
from serve.failover import FIRST_REST_SECONDS
from tests.unit.serve.two_sides import ERRORS, TwoSides, two_sides


class Served:
    """An embedding service before two sides."""

    def __init__(self, sides: TwoSides, service: EmbeddingService) -> None:
        self.sides = sides
        self.service = service
        self._texts = 0

    async def ask(self, model: str, seconds: float = 20.0) -> EmbeddingResult:
        self._texts += 1  # never the same text: equal ones are answered from what is kept
        request = EmbeddingRequest(model=model, input=f"text {self._texts}")
        return await self.service.embed(request, time.monotonic() + seconds)

    async def who(self, model: str, seconds: float = 20.0) -> tuple[str, str, str | None]:
        served = (await self.ask(model, seconds)).served
        return served.variant, served.node, served.degraded


@asynccontextmanager
async def served(folder: Path, **options: Any) -> AsyncIterator[Served]:
    async with two_sides(folder, **options) as sides:
        service = EmbeddingService(sides.catalog, sides.settings.serve, sides.variant, folder)
        try:
            yield Served(sides, service)
        finally:
            await service.close()


async def test_each_model_is_answered_where_it_belongs(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        await it.sides.wake()
        assert await it.who("homely") == ("local", "home", None)
        assert await it.who("either") == ("local", "home", None)
        assert await it.who("cloudy") == ("spot", "vm-1", None)
        assert await it.who("huge") == ("spot", "vm-1", None)


async def test_the_answer_is_the_same_on_both_sides(tmp_path: Path) -> None:
    request = EmbeddingRequest(model="cloudy", input=["one text", "and another"])
    async with served(tmp_path / "a", there=False) as asleep, served(tmp_path / "b") as awake:
        await awake.sides.wake()
        at_home = await asleep.service.embed(request, None)
        in_cloud = await awake.service.embed(request, None)
    assert (at_home.served.variant, in_cloud.served.variant) == ("local", "spot")
    np.testing.assert_array_equal(at_home.vectors, in_cloud.vectors)


async def test_home_answers_while_the_cloud_wakes(tmp_path: Path) -> None:
    async with served(tmp_path, there=False) as it:
        assert await it.who("cloudy") == ("local", "home", "spot is waking")
        assert it.sides.spot.calls["embed"] == 0
        it.sides.spot.there.set()
        await it.sides.phase("awake")
        assert await it.who("cloudy") == ("spot", "vm-1", None)
        assert it.sides.figures.phases == ["asleep", "waking", "awake"]


async def test_an_answer_that_was_kept_is_not_degraded(tmp_path: Path) -> None:
    request = EmbeddingRequest(model="cloudy", input="the same text")
    async with served(tmp_path, there=False) as it:
        first = await it.service.embed(request, None)
        again = await it.service.embed(request, None)
    assert (first.served.degraded, first.served.cached) == ("spot is waking", False)
    assert (again.served.degraded, again.served.cached) == (None, True)
    assert again.served.node == "home"


async def test_nobody_wakes_the_cloud_for_what_belongs_at_home(tmp_path: Path) -> None:
    async with served(tmp_path, there=False) as it:
        await it.who("homely")
        await it.who("either")
        await it.sides.variant.stats()
        assert (await it.sides.router.status())["state"] == "asleep"
        assert sum(it.sides.spot.calls.values()) == 0


async def test_a_lost_batch_goes_to_another_replica(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        await it.sides.wake()
        it.sides.spot.faults.append("lost")
        assert await it.who("cloudy") == ("spot", "vm-1", None)
        assert it.sides.figures.attempts == {("spot", "lost"): 1, ("spot", "ok"): 1}
        assert it.sides.figures.failovers == {"lost": 1}


async def test_a_lost_batch_comes_home_where_there_is_no_other(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        await it.sides.wake()
        it.sides.spot.faults.append("lost")
        it.sides.spot.there.clear()
        assert await it.who("cloudy") == ("local", "home", "spot is waking")


async def test_a_cut_link_fails_nobody_and_is_tried_once(tmp_path: Path) -> None:
    async with served(tmp_path, attempt_seconds=0.3, batch_items=2) as it:
        await it.sides.wake()
        await it.who("cloudy")
        it.sides.spot.there.clear()
        before = it.sides.spot.calls["embed"]
        started = time.monotonic()
        found = await asyncio.gather(*[it.who("cloudy") for _ in range(40)])
        assert time.monotonic() - started < 60
        assert {variant for variant, _, _ in found} == {"local"}
        assert all(degraded for _, _, degraded in found)
        # as many batches as may be in flight at once, of forty requests
        assert it.sides.spot.calls["embed"] - before <= 2
        assert it.sides.router.policy.reason(time.monotonic()) is not None
        it.sides.spot.there.set()
        while (await it.who("cloudy"))[0] != "spot":
            await it.sides.router.until(time.monotonic() + 0.1)
        assert it.sides.router.policy._rest == FIRST_REST_SECONDS  # it is trusted again


async def test_time_for_an_answer_at_home_is_left_of_a_short_deadline(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        await it.sides.wake()
        it.sides.spot.faults.append("silent")
        found = await it.who("cloudy", seconds=3.0)
        assert found == ("local", "home", "spot was too slow for the deadline")
        # the client's time was short, which says nothing about the side
        assert it.sides.router.is_awake()


async def test_silence_is_noticed_though_its_client_has_left(tmp_path: Path) -> None:
    async with served(tmp_path, attempt_seconds=3.0) as it:
        await it.sides.wake()
        it.sides.spot.faults.append("silent")
        assert (await it.who("cloudy", seconds=2.7))[0] == "local"
        assert it.sides.router.is_awake()
        await it.sides.phase("resting")


async def test_an_abandoned_attempt_is_cancelled(tmp_path: Path) -> None:
    async with two_sides(tmp_path) as sides:
        await sides.wake()
        sides.spot.faults.append("silent")
        assert len(await sides.variant.class_labels("judge", time.monotonic() + 1.0)) == 3
        assert sides.spot.given_up == 1


async def test_a_model_that_is_being_loaded_is_answered_at_home(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        await it.sides.wake()
        it.sides.spot.faults.append("loading")
        assert await it.who("cloudy") == ("local", "home", "spot is loading the model")
        assert it.sides.router.is_awake()


async def test_a_model_that_cannot_be_run_there_is_answered_at_home(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        await it.sides.wake()
        it.sides.spot.faults.append("unable")
        assert await it.who("cloudy") == ("local", "home", "spot cannot run the model")
        assert await it.who("cloudy") == ("local", "home", "spot cannot run the model")
        assert it.sides.spot.calls["embed"] == 1


async def test_what_home_has_no_room_for_goes_to_the_cloud(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        await it.sides.wake()
        it.sides.local.faults.append("full")
        assert await it.who("either") == ("spot", "vm-1", None)
        ERRORS["no room"] = MemoryBudgetError("it does not fit")
        it.sides.local.faults.append("no room")
        assert await it.who("either") == ("spot", "vm-1", "local cannot run the model")
        it.sides.local.faults.append("full")
        with pytest.raises(OverloadedError, match="too much waits"):
            await it.ask("homely")


async def test_overload_is_refused_while_the_cloud_wakes(tmp_path: Path) -> None:
    async with served(tmp_path, there=False) as it:
        it.sides.local.faults.append("full")
        with pytest.raises(OverloadedError, match="too much waits"):
            await it.ask("either")
        assert it.sides.router.policy.asks


async def test_what_fits_nowhere_is_refused_with_the_reason(tmp_path: Path) -> None:
    news = "refused: the month's cap of 25 USD is reached"
    async with served(tmp_path, there=False, news=news) as it:
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=r"huge does not fit.*spot is waking.*25 USD"):
            await it.ask("huge", seconds=0.5)
        assert time.monotonic() - started >= 0.3
        with pytest.raises(UnavailableError) as caught:
            await it.ask("huge", seconds=0.2)
        assert caught.value.retry_after > 60
        assert caught.value.code == "spot_unavailable"
        status = await it.sides.router.status()
        assert status["state"] == "waking"
        assert "25 USD" in status["reason"]


async def test_what_fits_nowhere_is_answered_once_the_cloud_is_awake(tmp_path: Path) -> None:
    async with served(tmp_path, there=False) as it:
        waiting = asyncio.create_task(it.who("huge"))
        await it.sides.phase("waking")
        it.sides.spot.there.set()
        assert await waiting == ("spot", "vm-1", None)


async def test_a_wrong_request_is_not_tried_elsewhere(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        await it.sides.wake()
        it.sides.spot.faults.append("wrong")
        with pytest.raises(RequestError, match="no such token"):
            await it.ask("cloudy")
        assert it.sides.local.calls["embed"] == 0
        assert it.sides.figures.attempts == {("spot", "error"): 1}


async def test_files_that_are_damaged_at_home_are_no_reason_to_go_elsewhere(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as it:
        await it.sides.wake()
        it.sides.local.faults.append("unable")
        with pytest.raises(ModelLoadError, match="no such file"):
            await it.ask("either")
        assert it.sides.spot.calls["embed"] == 0


async def test_a_request_that_kills_replicas_does_not_kill_them_all(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        await it.sides.wake()
        it.sides.spot.faults.extend(["lost"] * 9)
        assert await it.who("cloudy") == ("local", "home", "a spot replica was lost")
        assert it.sides.spot.calls["embed"] == 2
        with pytest.raises(UnavailableError, match="a replica was lost"):
            await it.ask("huge")
        assert it.sides.spot.calls["embed"] == 5


async def test_a_slow_batch_may_take_what_batches_take(tmp_path: Path) -> None:
    """With 2 s of its own a batch that was seen to take 1.5 s gets 4.5 s, not 2."""
    async with served(tmp_path, attempt_seconds=2.0) as it:
        await it.sides.wake()
        await it.who("cloudy")
        lane: Any = it.service._lane("cloudy")
        assert lane._seconds(100) == 2.0
        lane._cloud.in_flight_seconds = lambda: 1.5
        assert lane._seconds(100) == 4.5
        lane._cloud.in_flight_seconds = lambda: None
        lane._bytes = 1_629_000_000  # a large model of which no batch was seen
        assert lane._seconds(2048) == pytest.approx(100.1, abs=0.1)


async def test_both_queues_are_shown(tmp_path: Path) -> None:
    async with served(tmp_path) as it:
        await it.who("either")
        assert set(it.service.lanes()) == {"either", "either on spot"}


class TestWithoutAQueue:
    async def test_labels_and_batches(self, tmp_path: Path) -> None:
        async with two_sides(tmp_path, attempt_seconds=1.0) as sides:
            await sides.wake()
            end = time.monotonic() + 20
            assert len(await sides.variant.class_labels("judge", end)) == 3
            sides.spot.faults.append("silent")
            assert len(await sides.variant.class_labels("judge", end)) == 3
            batch = PackedTokens.pack([np.array([1, 2], np.int32)])
            assert (await sides.variant.embed("cloudy", batch, end)).node == "home"
            assert (await sides.variant.classify("judge", batch, end)).node == "home"
            assert sides.spot.calls == {"stats": 1, "class_labels": 2}

    async def test_a_deadline_in_the_past(self, tmp_path: Path) -> None:
        async with two_sides(tmp_path) as sides:
            with pytest.raises(DeadlineExceededError, match="not answered by its deadline"):
                await sides.variant.class_labels("judge", time.monotonic() - 1)


async def test_classifiers_change_sides_too(tmp_path: Path) -> None:
    async with two_sides(tmp_path) as sides:
        await sides.wake()
        classifiers = SequenceClassifiers(
            sides.catalog, sides.settings.serve, sides.variant, tmp_path
        )
        items = await classifiers.singles("judge", ["a text", "another"])
        assert (await classifiers.logits("judge", items, "normal", None)).served.variant == "spot"
        sides.spot.faults.extend(["lost", "lost"])
        found = await classifiers.logits("judge", items, "normal", None)
        assert (found.served.variant, found.served.degraded) == ("local", "a spot replica was lost")
        await classifiers.close()
