"""The way to a host: what leaves together, and who is told when a call comes to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from actors.agents.link import HostGoneError, HostLostError, Link, Outcome
from actors.agents.messages import Message, Parcel, new_id
from actors.agents.pace import CALLS, ENOUGH
from tests.waiting import until


class Host:
    """Keeps calls until a test answers them."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Parcel], asyncio.Future[list[Outcome | None]]]] = []
        self.news: asyncio.Queue[list[tuple[str, Outcome]] | HostLostError] = asyncio.Queue()

    async def deliver(self, sender: str, parcels: list[Parcel]) -> list[Outcome | None]:
        answer: asyncio.Future[list[Outcome | None]] = asyncio.get_running_loop().create_future()
        self.calls.append((parcels, answer))
        return await answer

    async def collect(self, sender: str) -> list[tuple[str, Outcome]]:
        found = await self.news.get()
        if isinstance(found, HostLostError):
            raise found
        return found

    def answer(self, call: int) -> None:
        """Each message of a call is answered with its own body."""
        parcels, answer = self.calls[call]
        answer.set_result([(True, parcel.body) for parcel in parcels])

    def answer_later(self, call: int) -> list[str]:
        """The answers are not ready; gives the messages' ids."""
        parcels, answer = self.calls[call]
        answer.set_result([None for _ in parcels])
        return [parcel.fields[0] for parcel in parcels]

    def bodies(self, call: int) -> list[object]:
        """What a call took along."""
        return [parcel.body for parcel in self.calls[call][0]]


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
async def link(host: Host) -> AsyncIterator[Link]:
    found = Link("sender", host)
    yield found
    found.close()


def post(link: Link, *bodies: int) -> list[asyncio.Future[object]]:
    return [
        link.post(Message(new_id(), "agent", body, "note"), wants_reply=True) for body in bodies
    ]


async def turns(count: int = 5) -> None:
    """Let the event loop turn, without time."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_sent_in_one_turn_leaves_together(host: Host, link: Link) -> None:
    answers = post(link, 1, 2, 3)
    await turns()
    assert [host.bodies(call) for call in range(len(host.calls))] == [[1, 2, 3]]
    host.answer(0)
    assert await asyncio.gather(*answers) == [1, 2, 3]


async def test_many_are_parted_in_their_order(host: Host, link: Link) -> None:
    count = CALLS * ENOUGH * 2
    answers = post(link, *range(count))
    await turns()
    assert [len(parcels) for parcels, _ in host.calls] == [2 * ENOUGH] * CALLS
    assert [body for call in range(CALLS) for body in host.bodies(call)] == list(range(count))
    for call in reversed(range(CALLS)):  # whichever comes first
        host.answer(call)
    assert await asyncio.gather(*answers) == list(range(count))


async def test_what_comes_meanwhile_leaves_when_the_call_is_back(host: Host) -> None:
    link = Link("sender", host, clock=lambda: 0.0)  # no moment passes
    first = post(link, 1)
    await turns()
    others = [*post(link, 2)]
    await turns()
    others += post(link, 3)
    await turns()
    assert len(host.calls) == 1
    host.answer(0)
    assert await first[0] == 1
    await turns()
    assert host.bodies(1) == [2, 3]
    host.answer(1)
    assert await asyncio.gather(*others) == [2, 3]
    link.close()


async def test_a_call_that_does_not_return_holds_nothing_up(host: Host, link: Link) -> None:
    post(link, 1)
    await turns()
    [answer] = post(link, 2)
    await until(lambda: len(host.calls) == 2)
    host.answer(1)
    assert await answer == 2


async def test_no_more_calls_than_that_at_once(host: Host, link: Link) -> None:
    for number in range(CALLS + 2):
        post(link, *range(number * ENOUGH, (number + 1) * ENOUGH))
        await turns()
    assert len(host.calls) == CALLS
    host.answer(0)
    await turns()
    assert len(host.calls) == CALLS + 1
    assert len(host.bodies(CALLS)) == 2 * ENOUGH


async def test_a_call_that_was_not_begun_speaks_for_itself_alone(host: Host, link: Link) -> None:
    answers = post(link, *range(2 * ENOUGH))
    await turns()
    host.calls[0][1].set_exception(HostGoneError("host 'h' is gone"))
    await turns()
    for answer in answers[:ENOUGH]:
        with pytest.raises(HostGoneError, match="host 'h' is gone"):
            await answer
    assert not any(answer.done() for answer in answers[ENOUGH:])
    host.answer(1)
    assert await asyncio.gather(*answers[ENOUGH:]) == list(range(ENOUGH, 2 * ENOUGH))


async def test_the_end_of_the_process_is_told_to_all(host: Host, link: Link) -> None:
    late = post(link, -1)
    await turns()
    host.answer_later(0)
    answers = post(link, *range(2 * ENOUGH))
    await turns()
    [waiting] = post(link, 1000)
    await turns()
    host.calls[1][1].set_exception(HostLostError("the process died"))
    await turns()
    for answer in [*late, *answers]:
        with pytest.raises(HostLostError, match="the process died") as raised:
            await answer
        assert not isinstance(raised.value, HostGoneError)
    with pytest.raises(HostGoneError, match="the process died"):  # it had not left
        await waiting


async def test_late_answers_come_through_one_open_call(host: Host, link: Link) -> None:
    answers = post(link, 1, 2)
    await turns()
    ids = host.answer_later(0)
    host.news.put_nowait([(ids[1], (True, "two"))])
    assert await answers[1] == "two"
    assert not answers[0].done()
    host.news.put_nowait(HostLostError("the process died"))
    with pytest.raises(HostLostError, match="the process died"):
        await answers[0]
