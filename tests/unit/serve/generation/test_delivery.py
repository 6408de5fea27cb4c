"""Tokens from the compute thread to readers: when the loop is woken, and what a delta holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.generation.delivery import Delivery, PendingAnswer
from serve.generation.protocol import Delta, TokenDraw


class CountingDelivery(Delivery):
    """Counts how often the loop is woken."""

    def __init__(self) -> None:
        super().__init__()
        self.use_running_loop()
        self.wakes = 0

    def call(self, function: Callable[[], object]) -> bool:
        self.wakes += 1
        return super().call(function)

    def step(self, *job_ids: int, last: bool = False) -> None:
        """What a step gives to these jobs: a token each."""
        delta = Delta((TokenDraw(7),), "length" if last else None)
        self.add([(job_id, delta) for job_id in job_ids])
        assert self.wake()


def size(delta: Delta) -> int:
    return len(delta.tokens)


async def sizes(answer: PendingAnswer) -> list[int]:
    """Tokens of each delta to the end."""
    found = []
    while True:
        delta = await answer.next()
        found.append(size(delta))
        if delta.finish is not None:
            return found


async def test_a_token_each_wakes_the_loop_once_for_a_turn() -> None:
    delivery = CountingDelivery()
    answer = delivery.open(1)
    for _ in range(3):
        delivery.step(1)
    assert delivery.wakes == 1
    assert size(await answer.next()) == 3
    delivery.step(1)
    assert delivery.wakes == 2
    assert size(await answer.next()) == 1


async def test_a_reader_of_several_at_a_time_gets_the_first_at_once() -> None:
    delivery = CountingDelivery()
    answer = delivery.open(1, at_least=4)
    delivery.step(1)
    assert size(await answer.next()) == 1
    for _ in range(3):
        delivery.step(1)
    assert delivery.wakes == 1, "the loop was woken for what nobody waits for"
    delivery.step(1)
    assert delivery.wakes == 2
    assert size(await answer.next()) == 4


async def test_it_counts_from_what_was_read_though_another_reader_took_it() -> None:
    delivery = CountingDelivery()
    many, single = delivery.open(1, at_least=3), delivery.open(2)
    delivery.step(1, 2)
    assert (size(await many.next()), size(await single.next())) == (1, 1)
    reading = asyncio.create_task(many.next())
    for _ in range(2):
        delivery.step(1, 2)
        assert size(await single.next()) == 1
        assert not reading.done()
    delivery.step(1)  # the third since, and the other job has nothing in this step
    assert size(await asyncio.wait_for(reading, 60)) == 3


async def test_the_end_does_not_wait_for_enough() -> None:
    delivery = CountingDelivery()
    answer = delivery.open(1, at_least=100)
    delivery.step(1)
    assert size(await answer.next()) == 1
    delivery.step(1)
    delivery.step(1, last=True)
    assert delivery.wakes == 2
    assert await asyncio.wait_for(answer.next(), 60) == Delta((TokenDraw(7),) * 2, "length")


async def test_an_error_does_not_wait_for_enough_and_comes_after_the_tokens() -> None:
    delivery = CountingDelivery()
    answer = delivery.open(1, at_least=100)
    delivery.step(1)
    assert size(await answer.next()) == 1
    delivery.step(1)
    delivery.add([(1, RuntimeError("out of memory"))])
    assert delivery.wake()
    assert size(await asyncio.wait_for(answer.next(), 60)) == 1
    with pytest.raises(RuntimeError, match="out of memory"):
        await answer.next()


async def test_news_of_a_job_that_is_being_opened_are_not_lost() -> None:
    delivery = CountingDelivery()
    delivery.step(1)
    assert delivery.wakes == 1
    assert size(await delivery.open(1, at_least=9).next()) == 1


def test_nobody_reads_in_a_loop_that_was_closed() -> None:
    loop = asyncio.new_event_loop()
    delivery = Delivery()

    async def begin() -> None:
        delivery.use_running_loop()
        delivery.open(1)

    loop.run_until_complete(begin())
    loop.close()
    delivery.add([(1, Delta((TokenDraw(7),)))])
    assert delivery.wake() is False
    assert delivery.abandon() == [1]
    assert delivery.wake() is True, "nothing is left to be told"


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=60),
    st.integers(1, 7),
)
def test_every_token_arrives_in_order_and_no_reader_is_forgotten(
    steps: list[tuple[bool, int]], at_least: int
) -> None:
    """Steps with one job or two, and turns of the loop between them."""

    async def run() -> tuple[list[int], list[int]]:
        delivery = CountingDelivery()
        answers = delivery.open(1, at_least), delivery.open(2)
        readers = [asyncio.create_task(sizes(answer)) for answer in answers]
        for both, turns in steps:
            delivery.step(*((1, 2) if both else (1,)))
            for _ in range(turns):
                await asyncio.sleep(0)
        delivery.step(1, 2, last=True)
        async with asyncio.timeout(60):
            many, single = await asyncio.gather(*readers)
        return many, single

    many, single = asyncio.run(run())
    assert sum(many) == len(steps) + 1
    assert sum(single) == sum(both for both, _ in steps) + 1
    assert all(count >= at_least for count in many[1:-1])
