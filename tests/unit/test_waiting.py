"""What the tests share: waits on conditions, and how files are shared out."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.scheduling import OneClusterAtATime
from tests.waiting import until, wait_for


def test_a_wait_returns_what_came_true() -> None:
    answers = iter(["", 0, "there", "too late"])
    assert wait_for(lambda: next(answers)) == "there"


def test_a_wait_has_an_end() -> None:
    with pytest.raises(AssertionError, match=r"the condition did not come true in 0\.02 s"):
        wait_for(lambda: False, 0.02)


async def test_the_loop_goes_on_meanwhile() -> None:
    seen: list[int] = []
    asyncio.get_running_loop().call_later(0.01, seen.append, 1)
    await until(lambda: seen)


async def test_a_condition_may_be_a_coroutine_function() -> None:
    count = itertools.count()

    async def third() -> bool:
        return next(count) == 2

    await until(third)
    assert next(count) == 3


async def test_a_wait_in_a_loop_has_an_end_also_where_its_condition_hangs() -> None:
    with pytest.raises(AssertionError, match=r"the condition did not come true in 0\.02 s"):
        await until(lambda: False, 0.02)
    with pytest.raises(TimeoutError):
        await until(asyncio.Event().wait, 0.02)


def test_files_are_shared_out_whole_and_those_with_a_real_ray_to_one_worker() -> None:
    scheduling: Any = object.__new__(OneClusterAtATime)
    scope = scheduling._split_scope
    assert scope("tests/unit/a.py::test_x") == scope("tests/unit/a.py::Test::test_y")
    assert scope("tests/unit/a.py::test_x") != scope("tests/contract/b.py::test_x")
    assert scope("tests/integration/a.py::test_x") == scope("tests/chaos/b.py::test_y[1]")
