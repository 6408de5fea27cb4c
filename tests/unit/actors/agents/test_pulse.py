"""Since when a loop stands still: from the first question that it has not answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from actors.agents.pulse import Pulse


class Clock:
    """Shows what a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own."""
    found = asyncio.new_event_loop()
    thread = threading.Thread(target=found.run_forever)
    thread.start()
    yield found
    found.call_soon_threadsafe(found.stop)
    thread.join()
    found.close()


def turned(loop: asyncio.AbstractEventLoop) -> None:
    """Return when a loop has dealt with all that was there."""
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)


def test_one_that_turns_stands_never_still(loop: asyncio.AbstractEventLoop) -> None:
    clock = Clock()
    pulse = Pulse(loop, clock)
    for _ in range(3):
        pulse.ask()
        turned(loop)
        clock.now += 10.0  # nobody asks meanwhile
        assert pulse.still_seconds == 0.0


def test_it_counts_from_the_first_question(loop: asyncio.AbstractEventLoop) -> None:
    clock, gate = Clock(), threading.Event()
    pulse = Pulse(loop, clock)
    loop.call_soon_threadsafe(gate.wait, 10)
    for _ in range(3):
        pulse.ask()
        clock.now += 1.0
    assert pulse.still_seconds == 3.0
    gate.set()
    turned(loop)
    # also of what nobody has waited for
    clock.now += 10.0
    assert pulse.still_seconds == 0.0
