"""Who comes next, and who is woken when."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given
from hypothesis import strategies as st

from actors.orchestration.start_queue import HANDICAP, PRIORITIES, StartQueue, rank_of
from actors.orchestration.wake_ups import WakeUps
from ironcliw.schemas.base import Priority
from tests.waiting import until


def test_the_first_of_equals_comes_first() -> None:
    queue: StartQueue[int] = StartQueue()
    for number in range(10):
        queue.push(number, 1.0)
    assert [queue.pop() for _ in range(10)] == list(range(10))
    assert len(queue) == 0


@given(st.lists(st.tuples(st.sampled_from(PRIORITIES), st.floats(0, 5000)), max_size=30))
def test_the_urgent_come_first_but_nobody_waits_for_ever(
    entries: list[tuple[Priority, float]],
) -> None:
    queue: StartQueue[tuple[Priority, float]] = StartQueue()
    for entry in entries:
        queue.push(entry, rank_of(*entry, 0))
    order = [queue.pop() for _ in entries]
    for before, after in itertools.pairwise(order):
        assert before[1] + HANDICAP[before[0]] <= after[1] + HANDICAP[after[0]]


def test_a_crowd_is_spread() -> None:
    queue: StartQueue[str] = StartQueue()
    for ahead in range(100):
        queue.push("crowd", rank_of("normal", 0.0, ahead))
    queue.push("lone", rank_of("normal", 1.0, 0))
    order = [queue.pop() for _ in range(101)]
    assert order.index("lone") == 11


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_keys_are_woken_when_their_time_has_come() -> None:
    clock, woken = Clock(), list[str]()
    timers: WakeUps[str] = WakeUps(clock, woken.append)
    timers.set("late", 1000.05)
    timers.set("early", 1000.01)
    timers.set("dropped", 1000.02)
    timers.set("moved", 1000.03)
    timers.set("dropped", None)
    timers.set("moved", 5000.0)
    await asyncio.sleep(0.1)
    assert woken == []  # by the wall clock it is too early
    clock.now = 1001.0
    await until(lambda: len(woken) >= 2)
    assert woken == ["early", "late"]
    timers.set("again", 1000.0)
    await until(lambda: len(woken) >= 3)
    timers.set("never", 1000.0)
    timers.close()
    await asyncio.sleep(0.02)
    assert woken == ["early", "late", "again"]
