"""The shell around the scheduler: a real compute thread, a real event loop, a fake decoder."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import numpy as np
import pytest

from ironcliw.errors import (
    ContextLengthError,
    IroncliwError,
    OverloadedError,
    RequestError,
)
from serve.engines.decoders.fake import END, FakeDecoder
from serve.generation.protocol import GenerationJob, Generator
from serve.generation.runner import GenerationRunner
from serve.generation.scheduler import GenerationLimits
from tests.unit.serve.generation.gated_decoder import (
    PATIENCE,
    GatedDecoder,
    answer,
    block_until,
    job,
    until,
)


async def test_many_answers_at_once(executor: ThreadPoolExecutor) -> None:
    runner = GenerationRunner(FakeDecoder("fake:258?text=Hello+there&slots=3"), executor)
    stop = frozenset({END})
    answers = await asyncio.gather(
        *(answer(runner, job(max_tokens=n, stop_tokens=stop)) for n in range(1, 20))
    )
    assert answers == [(b"Hello there"[:n], "length" if n <= 11 else "stop") for n in range(1, 20)]
    stats = runner.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.steps > 0


async def test_facts_are_the_decoder_s(executor: ThreadPoolExecutor) -> None:
    generator: Generator = GenerationRunner(FakeDecoder("fake:258?context=99&bytes=7"), executor)
    facts = (generator.context, generator.device, generator.precision, generator.resident_bytes)
    assert facts == (99, "cpu", "float32", 7)


async def test_leaving_frees_the_slot_before_the_next_step(executor: ThreadPoolExecutor) -> None:
    decoder = GatedDecoder("fake:258?text=Hello&slots=1")
    runner = GenerationRunner(decoder, executor)
    async with aclosing(runner.generate(job(max_tokens=400))) as deltas:
        decoder.permits.release()
        await anext(deltas)
        other = asyncio.create_task(answer(runner, job(max_tokens=1)))
        await until(lambda: runner.stats().waiting == 1 and decoder.started == 2)
    assert (runner.stats().running, runner.stats().waiting) == (0, 1)
    decoder.permits.release(2)
    # the next step after the one that was under way is the other job's
    assert await other == (b"H", "length")
    assert decoder.started == 3


async def test_cancelling_the_reader_frees_the_slot(executor: ThreadPoolExecutor) -> None:
    decoder = GatedDecoder("fake:258?text=Hello&slots=1")
    runner = GenerationRunner(decoder, executor)
    reader = asyncio.create_task(answer(runner, job(max_tokens=400)))
    await until(lambda: decoder.started == 1)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    decoder.permits.release()
    await until(lambda: not decoder.held_slots())
    assert runner.stats().running == 0
    assert decoder.started == 1


async def test_a_late_reader_gets_all_at_once_and_holds_up_nobody(
    executor: ThreadPoolExecutor,
) -> None:
    decoder = GatedDecoder("fake:258?text=Hello+there&slots=2")
    runner = GenerationRunner(decoder, executor)
    async with aclosing(runner.generate(job(max_tokens=11))) as late:
        decoder.permits.release()
        first = await anext(late)
        decoder.permits.release(20)
        assert await answer(runner, job(max_tokens=11)) == (b"Hello there", "length")
        rest = [delta async for delta in late]
    assert len(rest) == 1
    assert bytes(t.id for delta in (first, *rest) for t in delta.tokens) == b"Hello there"
    assert rest[0].finish == "length"


async def test_a_delta_has_all_that_came_before_it_was_asked_for(
    executor: ThreadPoolExecutor,
) -> None:
    """Also what the loop has not been told of yet."""
    decoder = GatedDecoder("fake:258?text=Hello+there&slots=2")
    runner = GenerationRunner(decoder, executor)
    async with (
        aclosing(runner.generate(job(max_tokens=11))) as late,
        aclosing(runner.generate(job(max_tokens=11))) as witness,
    ):
        decoder.permits.release()
        await asyncio.gather(anext(late), anext(witness))
        decoder.permits.release()
        await anext(witness)  # so the late reader's token, of the same step, has come as well
        decoder.permits.release()
        block_until(lambda: runner.stats().generated_tokens == 6)
        assert bytes(token.id for token in (await anext(late)).tokens) == b"el"
        decoder.permits.release(20)


async def test_tokens_come_as_many_at_a_time_as_the_job_wants(
    executor: ThreadPoolExecutor,
) -> None:
    decoder = GatedDecoder("fake:258?text=Hello+there&slots=2")
    runner = GenerationRunner(decoder, executor)
    decoder.permits.release(11)
    asked = job(max_tokens=11, delta_tokens=4)
    deltas = [delta async for delta in runner.generate(asked)]
    assert bytes(token.id for delta in deltas for token in delta.tokens) == b"Hello there"
    assert all(len(delta.tokens) >= 4 for delta in deltas[1:-1])
    assert len(deltas) <= 4


async def test_jobs_of_one_turn_share_their_first_step(executor: ThreadPoolExecutor) -> None:
    decoder = GatedDecoder("fake:258?text=Hello")
    runner = GenerationRunner(decoder, executor)
    decoder.permits.release()
    await asyncio.gather(*(answer(runner, job(max_tokens=1)) for _ in range(5)))
    assert decoder.started == 1


async def test_another_model_computes_between_two_steps(executor: ThreadPoolExecutor) -> None:
    decoder = GatedDecoder("fake:258?text=Hello&slots=1")
    runner = GenerationRunner(decoder, executor)
    reader = asyncio.create_task(answer(runner, job(max_tokens=5)))
    await until(lambda: decoder.started == 1)
    steps = executor.submit(lambda: decoder.started)
    decoder.permits.release(5)
    assert await asyncio.wrap_future(steps) == 1
    await reader


async def test_scores(executor: ThreadPoolExecutor) -> None:
    runner = GenerationRunner(FakeDecoder("fake:258?text=Hello"), executor)
    asked = job(max_tokens=1, score_tokens=(ord("H"), ord("e")))
    (delta,) = [delta async for delta in runner.generate(asked)]
    assert delta.scores == pytest.approx((0, -60))
    assert (delta.tokens, delta.finish) == ((), None)


async def test_an_answer_that_was_complete_already_ends_at_once(
    executor: ThreadPoolExecutor,
) -> None:
    decoder = FakeDecoder("fake:258?text=Hello")
    runner = GenerationRunner(decoder, executor)
    assert await answer(runner, job(max_tokens=1, generated=np.array([72], np.int32))) == (
        b"",
        "length",
    )
    await until(lambda: not runner.stats().running)


async def test_a_failed_step_fails_its_jobs_and_no_others(executor: ThreadPoolExecutor) -> None:
    decoder = GatedDecoder("fake:258?text=Hello&slots=1")
    runner = GenerationRunner(decoder, executor)
    first = asyncio.create_task(answer(runner, job(max_tokens=3)))
    await until(lambda: decoder.started == 1)
    second = asyncio.create_task(answer(runner, job(max_tokens=3)))
    await until(lambda: runner.stats().waiting == 1)
    decoder.error = RuntimeError("out of memory")
    decoder.permits.release(9)
    with pytest.raises(RuntimeError, match="out of memory"):
        await first
    assert await second == (b"Hel", "length")


async def test_a_decoder_that_computes_nan(executor: ThreadPoolExecutor) -> None:
    runner = GenerationRunner(FakeDecoder("fake:258?nan=1"), executor)
    with pytest.raises(IroncliwError, match="the model gave NaN"):
        await answer(runner, job())


async def test_tokens_come_before_the_error(executor: ThreadPoolExecutor) -> None:
    decoder = GatedDecoder("fake:258?text=Hello&slots=1")
    runner = GenerationRunner(decoder, executor)
    async with aclosing(runner.generate(job())) as deltas:
        decoder.permits.release()
        tokens = (await anext(deltas)).tokens
        decoder.permits.release(2)
        await until(lambda: decoder.started == 4)
        decoder.error = RuntimeError("out of memory")
        decoder.permits.release()
        await until(lambda: runner.stats().running == 0)
        tokens += (await anext(deltas)).tokens
        assert bytes(token.id for token in tokens) == b"Hel"
        with pytest.raises(RuntimeError, match="out of memory"):
            await anext(deltas)


async def test_refusals_reach_the_reader(executor: ThreadPoolExecutor) -> None:
    decoder = GatedDecoder("fake:258?slots=1&context=8")
    runner = GenerationRunner(decoder, executor, GenerationLimits(max_waiting=1))
    with pytest.raises(RequestError, match="no tokens"):
        await answer(runner, job(""))
    with pytest.raises(ContextLengthError, match="context is 8"):
        await answer(runner, job("too long a prompt"))
    running = asyncio.create_task(answer(runner, job(max_tokens=1)))
    await until(lambda: decoder.started == 1)
    waiting = asyncio.create_task(answer(runner, job(max_tokens=1)))
    await until(lambda: runner.stats().waiting == 1)
    with pytest.raises(OverloadedError, match="1 jobs with 2 tokens wait"):
        await answer(runner, job())
    decoder.permits.release(2)
    await asyncio.gather(running, waiting)


async def read(runner: GenerationRunner, asked: GenerationJob, leave_after: int) -> bytes:
    """An answer, or its beginning up to where its reader leaves."""
    ids: list[int] = []
    async with aclosing(runner.generate(asked)) as deltas:
        async for delta in deltas:
            ids += [token.id for token in delta.tokens]
            if len(ids) >= leave_after:
                break
    return bytes(ids)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", range(3))
async def test_whoever_comes_and_goes_changes_no_answer(seed: int, workers: int) -> None:
    """Hundreds of jobs at random moments: each is answered, and as it is alone."""
    chance = random.Random(seed)
    asked = [
        job(chr(97 + number) * chance.randint(1, 9), max_tokens=chance.randint(1, 12))
        for number in range(20)
    ]
    decoder = FakeDecoder("fake:256?slots=4&context=32&kv=60")
    with ThreadPoolExecutor(workers) as pool:
        runner = GenerationRunner(decoder, pool)
        alone = [(await answer(runner, each))[0] for each in asked]

        async def come_and_go() -> None:
            for _ in range(chance.randint(0, 30)):
                await asyncio.sleep(0)  # mostly while nothing is computed, or a step ends
            number = chance.randrange(len(asked))
            leave_after = chance.choice([1, 3, 99, 99, 99])
            got = await read(runner, asked[number], leave_after)
            assert alone[number].startswith(got)
            assert len(got) >= min(leave_after, len(alone[number]))

        async with asyncio.timeout(PATIENCE):
            for _ in range(40):
                await asyncio.gather(*(come_and_go() for _ in range(chance.randint(1, 9))))
            await until(lambda: not decoder.held_slots())
        assert (runner.stats().running, runner.stats().waiting) == (0, 0)
        runner.close()
