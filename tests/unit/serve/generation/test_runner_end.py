"""How a runner ends: closed, without an executor, or without anybody who reads."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ironcliw.errors import (
    UnavailableError,
)
from serve.engines.decoders.fake import FakeDecoder
from serve.generation.runner import GenerationRunner
from tests.unit.serve.generation.gated_decoder import (
    PATIENCE,
    GatedDecoder,
    answer,
    job,
    until,
    until_refused,
)


async def test_close_ends_every_job(executor: ThreadPoolExecutor) -> None:
    decoder = GatedDecoder("fake:258?text=Hello&slots=1")
    runner = GenerationRunner(decoder, executor)
    readers = [asyncio.create_task(answer(runner, job(max_tokens=400))) for _ in range(3)]
    await until(lambda: decoder.started == 1)
    closing = asyncio.create_task(asyncio.to_thread(runner.close))  # waits for the step
    while not closing.done():
        decoder.permits.release()
        await asyncio.sleep(0.001)
    assert decoder.closed
    for reader in readers:
        with pytest.raises(UnavailableError, match="the model was closed"):
            await reader
    with pytest.raises(UnavailableError, match="the model was closed"):
        await answer(runner, job())
    runner.close()


async def test_no_step_follows_the_one_that_a_close_waits_for(
    executor: ThreadPoolExecutor,
) -> None:
    decoder = GatedDecoder("fake:258?text=Hello&slots=1")
    runner = GenerationRunner(decoder, executor)
    reader = asyncio.create_task(answer(runner, job(max_tokens=400)))
    await until(lambda: decoder.started == 1)
    closing = asyncio.create_task(asyncio.to_thread(runner.close))
    try:
        # refused while the step still computes: whatever plans the next one finds it closed too
        await until_refused(runner)
    finally:
        decoder.permits.release(400)
        await closing
    with pytest.raises(UnavailableError, match="the model was closed"):
        await reader
    assert decoder.started == 1


async def test_a_step_of_a_closed_model_is_not_computed(executor: ThreadPoolExecutor) -> None:
    decoder = GatedDecoder("fake:258?text=Hello&slots=1")
    runner = GenerationRunner(decoder, executor)
    gate = threading.Event()
    executor.submit(gate.wait, PATIENCE)  # another model computes
    reader = asyncio.create_task(answer(runner, job()))
    await until(lambda: runner.stats().running == 1)
    runner.close()
    gate.set()
    with pytest.raises(UnavailableError, match="the model was closed"):
        await reader
    assert decoder.started == 0


async def test_an_executor_that_was_shut_down(executor: ThreadPoolExecutor) -> None:
    runner = GenerationRunner(FakeDecoder("fake:258?text=Hello"), executor)
    executor.shutdown()
    with pytest.raises(UnavailableError, match="compute thread has ended"):
        await answer(runner, job())


async def test_a_step_that_was_cancelled(executor: ThreadPoolExecutor) -> None:
    runner = GenerationRunner(FakeDecoder("fake:258?text=Hello"), executor)
    gate = threading.Event()
    executor.submit(gate.wait, PATIENCE)  # another model computes
    reader = asyncio.create_task(answer(runner, job()))
    await until(lambda: runner.stats().running == 1)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.set()
    with pytest.raises(UnavailableError, match="compute thread has ended"):
        await reader


def test_nothing_is_computed_for_a_loop_that_was_closed(executor: ThreadPoolExecutor) -> None:
    decoder = GatedDecoder("fake:258?text=Hello&slots=1")
    runner = GenerationRunner(decoder, executor)
    loop = asyncio.new_event_loop()
    deltas = runner.generate(job(max_tokens=400))
    decoder.permits.release()
    loop.run_until_complete(anext(deltas))
    loop.close()
    decoder.permits.release(400)
    deadline = time.monotonic() + PATIENCE
    while decoder.held_slots():
        assert time.monotonic() < deadline, "the slot was not freed"
        time.sleep(0.001)
    assert decoder.started < 10
    assert runner.stats().running == 0
