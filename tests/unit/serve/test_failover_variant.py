"""Texts that go on elsewhere: the reader gets what an undisturbed answer would have been."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.errors import DeadlineExceededError, OverloadedError, UnavailableError
from ironcliw.schemas.generation import CompletionRequest
from serve.generation.answering import Answering, resumed
from serve.generation.protocol import Delta, GenerationJob, TokenDraw
from serve.generation.service import GenerationService
from serve.heartbeat import Heartbeat, with_heartbeat
from serve.host import ModelHost
from serve.spot_replica import LoadGate
from serve.variants import ModelLoadingError
from tests.unit.serve.two_sides import TEXT, TwoSides, two_sides


class Writer:
    """A generation service before two sides."""

    def __init__(self, sides: TwoSides, service: GenerationService) -> None:
        self.sides = sides
        self.service = service

    async def write(
        self, model: str = "talker", seconds: float = 20.0, **options: Any
    ) -> tuple[str, Answering]:
        given = {"prompt": "> ", "max_tokens": 100, "temperature": 0.0, **options}
        request = CompletionRequest(model=model, **given)
        answers, answering = await self.service.complete(request, time.monotonic() + seconds)
        return answers[0].text, answering


@asynccontextmanager
async def writer(folder: Path, **options: Any) -> AsyncIterator[Writer]:
    async with two_sides(folder, **options) as sides:
        service = GenerationService(sides.catalog, sides.settings.serve, sides.variant, folder)
        # what is imported and read once shall not look like silence on a busy machine
        for model in ("talker", "random", "slow"):
            await service.text_side(model)
            for host in sides.hosts:
                await host.load(model)
        try:
            yield Writer(sides, service)
        finally:
            await service.close()


def who(answering: Answering) -> tuple[str, str, str | None]:
    served = answering.served
    return served.variant, served.node, served.degraded


async def test_the_cloud_answers_and_names_its_machine(tmp_path: Path) -> None:
    async with writer(tmp_path) as it:
        await it.sides.wake()
        text, answering = await it.write()
        assert (text, who(answering)) == (TEXT, ("spot", "vm-1", None))
        assert it.sides.figures.attempts == {("spot", "ok"): 1}


async def test_home_answers_while_the_cloud_wakes(tmp_path: Path) -> None:
    async with writer(tmp_path, there=False) as it:
        text, answering = await it.write()
        assert (text, who(answering)) == (TEXT, ("local", "home", "spot is waking"))


@pytest.mark.parametrize("fault", ["lost", "silent"])
@pytest.mark.parametrize("after", [0, 1, 13, len(TEXT) - 1])
async def test_an_answer_goes_on_where_it_was_left(tmp_path: Path, fault: str, after: int) -> None:
    async with writer(tmp_path, attempt_seconds=1.0) as it:
        await it.sides.wake()
        it.sides.spot.faults.append(fault)
        it.sides.spot.after = after
        text, _ = await it.write()
        assert text == TEXT
        assert it.sides.figures.failovers == {fault: 1}
        assert len(it.sides.spot.jobs) + len(it.sides.local.jobs) == 2
        second = [*it.sides.spot.jobs[1:], *it.sides.local.jobs][0]
        assert len(second.generated) == after


@pytest.mark.parametrize("fault", ["lost", "silent"])
async def test_the_same_seed_gives_the_same_text(tmp_path: Path, fault: str) -> None:
    wanted: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_tokens": 60}
    async with writer(tmp_path, attempt_seconds=1.0) as it:
        await it.sides.wake()
        undisturbed, _ = await it.write("random", **wanted)
        it.sides.spot.faults.append(fault)
        it.sides.spot.after = 21
        disturbed, _ = await it.write("random", **wanted)
        other, _ = await it.write("random", **{**wanted, "seed": 8})
    assert disturbed == undisturbed
    assert other != undisturbed


async def test_every_replica_lost_still_ends_at_home(tmp_path: Path) -> None:
    async with writer(tmp_path) as it:
        await it.sides.wake()
        it.sides.spot.faults.extend(["lost"] * 9)
        it.sides.spot.after = 2
        text, _ = await it.write()
        assert text == TEXT
        assert (it.sides.spot.calls["generate"], it.sides.local.calls["generate"]) == (2, 1)


async def test_the_word_that_it_is_whole_may_be_lost(tmp_path: Path) -> None:
    async with writer(tmp_path, attempt_seconds=1.0) as it:
        await it.sides.wake()
        deltas: list[Delta] = []
        spot: Any = it.sides.spot
        spot.generate = _endless
        job = GenerationJob(_tokens(3), 2)
        stream = resumed(it.sides.variant, "talker", job, time.monotonic() + 20)
        async with aclosing(stream):
            deltas += [delta async for delta in stream]
        assert [len(delta.tokens) for delta in deltas] == [1, 1, 0]
        assert deltas[-1].finish == "length"
        assert it.sides.local.calls["generate"] == 0


async def test_a_job_that_waits_for_its_turn_is_left_alone(tmp_path: Path) -> None:
    """Its first token comes after many times what a silent replica is given."""
    async with writer(tmp_path, attempt_seconds=0.8, generation_slots=1) as it:
        await it.sides.wake()
        turn = asyncio.Event()
        spot: Any = it.sides.spot
        original = spot.generate

        async def late(
            model: str, job: GenerationJob, deadline: float
        ) -> AsyncGenerator[Delta, None]:
            async def queued() -> AsyncGenerator[Delta, None]:
                await turn.wait()
                async for delta in original(model, job, deadline):
                    yield delta

            async with aclosing(with_heartbeat(queued(), "vm-1", 0.05)) as deltas:
                async for delta in deltas:
                    yield delta

        spot.generate = late
        writing = asyncio.create_task(it.write())
        await it.sides.router.until(time.monotonic() + 2.0)
        assert not writing.done()
        turn.set()
        text, answering = await writing
        assert (text, answering.served.variant) == (TEXT, "spot")
        assert it.sides.router.is_awake()


async def test_a_deadline_is_the_clients_and_no_fault_of_the_replica(tmp_path: Path) -> None:
    async with writer(tmp_path) as it:
        await it.sides.wake()
        with pytest.raises(DeadlineExceededError, match="not whole by the request's deadline"):
            await it.write("slow", seconds=0.5)
        assert it.sides.router.is_awake()


async def test_time_for_an_answer_at_home_is_left_of_a_short_deadline(tmp_path: Path) -> None:
    async with writer(tmp_path) as it:
        await it.sides.wake()
        it.sides.spot.faults.append("silent")
        text, answering = await it.write(seconds=4.5)
        assert text == TEXT
        assert who(answering) == ("local", "home", "spot was too slow for the deadline")
        assert it.sides.router.is_awake()


async def test_a_home_that_is_full_sends_texts_to_the_cloud(tmp_path: Path) -> None:
    async with writer(tmp_path) as it:
        it.sides.catalog._cards["talker"] = _placed(it.sides, "auto")
        await it.sides.wake()
        it.sides.local.faults.append("full")
        text, answering = await it.write()
        assert (text, who(answering)) == (TEXT, ("spot", "vm-1", None))
        it.sides.catalog._cards["talker"] = _placed(it.sides, "local")
        it.sides.local.faults.append("full")
        with pytest.raises(OverloadedError, match="too much waits"):
            await it.write()


async def test_losses_at_home_are_survived_as_ever(tmp_path: Path) -> None:
    async with writer(tmp_path, there=False) as it:
        it.sides.local.faults.extend(["lost"] * 3)
        it.sides.local.after = 2
        assert (await it.write())[0] == TEXT
        it.sides.local.faults.extend(["lost"] * 9)
        with pytest.raises(UnavailableError, match="a replica was lost"):
            await it.write()


async def test_scores_say_who_gave_them(tmp_path: Path) -> None:
    async with writer(tmp_path) as it:
        await it.sides.wake()
        scores = await it.service.next_token_logprobs("talker", "> ", ["a", "b"], None)
        assert len(scores) == 2
        assert (await it.service.served("talker")).variant == "spot"
        it.sides.spot.faults.extend(["lost", "lost"])
        assert await it.service.next_token_logprobs("talker", "> ", ["a", "b"], None) == scores
        served = await it.service.served("talker")
        assert (served.variant, served.node) == ("local", "home")
        assert served.degraded == "a spot replica was lost"


async def test_a_reader_that_leaves_frees_the_slot(tmp_path: Path) -> None:
    async with writer(tmp_path) as it:
        await it.sides.wake()
        request = CompletionRequest(model="slow", prompt="> ", max_tokens=100)
        answering = await it.service.open_completion(request, None)
        await answering.aclose()
        async with asyncio.timeout(60):
            while _running(it.sides.hosts[1], "slow"):  # noqa: ASYNC110  # a step is under way
                await asyncio.sleep(0.005)


class TestHeartbeat:
    async def test_the_first_comes_before_anything_else(self) -> None:
        async with aclosing(with_heartbeat(_deltas(asyncio.Event()), "vm-9", 60.0)) as beats:
            assert await anext(beats) == Heartbeat(node="vm-9")

    async def test_silence_is_filled_and_nothing_is_lost(self) -> None:
        gate = asyncio.Event()
        seen: list[Delta] = []
        async with aclosing(with_heartbeat(_deltas(gate), "vm-9", 0.01)) as beats:
            async for delta in beats:
                seen.append(delta)
                if len(seen) == 5:
                    gate.set()
        assert seen[:5] == [Heartbeat(node="vm-9")] * 5
        rest = [delta for delta in seen[5:] if not isinstance(delta, Heartbeat)]
        assert rest == [Delta(), Delta(finish="stop")]

    @pytest.mark.parametrize("silence", [0.0, 3600.0])
    async def test_closing_it_closes_what_it_watches(self, silence: float) -> None:
        closed = asyncio.Event()

        async def source() -> AsyncGenerator[Delta, None]:
            try:
                await asyncio.sleep(silence)
                yield Delta()
            finally:
                closed.set()

        beats = with_heartbeat(source(), "vm-9", 0.01 if silence else 60.0)
        for _ in range(2):
            await anext(beats)
        await beats.aclose()
        assert closed.is_set()

    async def test_an_error_comes_through(self) -> None:
        async def source() -> AsyncGenerator[Delta, None]:
            raise OverloadedError("too much waits")
            yield Delta()

        with pytest.raises(OverloadedError, match="too much waits"):
            [delta async for delta in with_heartbeat(source(), "vm-9")]


class TestLoadGate:
    async def test_a_loaded_model_passes_and_a_slow_load_is_refused(self, tmp_path: Path) -> None:
        async with two_sides(tmp_path) as sides:
            host = sides.hosts[1]
            going, loads = asyncio.Event(), 0
            original = host.load

            async def load(model_id: str, **options: Any) -> None:
                nonlocal loads
                loads += 1
                await going.wait()
                await original(model_id, **options)

            host.load = load  # type: ignore[method-assign]
            gate = LoadGate(host, patience=0.01)
            for _ in range(3):
                with pytest.raises(ModelLoadingError, match="cloudy is being loaded"):
                    await gate.require("cloudy")
            going.set()
            async with asyncio.timeout(60):
                while "cloudy" not in host.residency.engines:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            await gate.require("cloudy")
            assert loads == 1

    async def test_a_load_that_fails_says_why_and_is_tried_again(self, tmp_path: Path) -> None:
        async with two_sides(tmp_path) as sides:
            host, errors = sides.hosts[1], [UnavailableError("no memory"), None]

            async def load(model_id: str) -> None:
                if error := errors.pop(0):
                    raise error

            host.load = load  # type: ignore[assignment,method-assign]
            gate = LoadGate(host, patience=10.0)
            with pytest.raises(UnavailableError, match="no memory"):
                await gate.require("cloudy")
            await gate.require("cloudy")
            assert errors == []


async def _endless(model: str, job: GenerationJob, deadline: float) -> AsyncGenerator[Delta, None]:
    """All the tokens of an answer, and then nothing."""
    for _ in range(job.max_tokens):
        yield Delta((TokenDraw(65),))
    await asyncio.sleep(3600)


async def _deltas(gate: asyncio.Event) -> AsyncGenerator[Delta, None]:
    await gate.wait()
    yield Delta()
    yield Delta(finish="stop")


def _tokens(count: int) -> Any:
    return np.full(count, 65, np.int32)


def _placed(sides: TwoSides, placement: Any) -> Any:
    return dataclasses.replace(sides.catalog["talker"], placement=placement)


def _running(host: ModelHost, model: str) -> int:
    row = next(row for row in host.stats()["models"] if row["id"] == model)
    return int(row["generation"]["running"])
