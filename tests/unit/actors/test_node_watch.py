"""The watch of machines: each that goes away is told of until it is gone."""

from __future__ import annotations

import pytest

from actors.node_watch import NodeWatch
from ironcliw.errors import StoreError


class FakeNodes:
    def __init__(self) -> None:
        self.living = ["a", "b"]
        self.leaving: dict[str, int] = {}

    def workers(self) -> list[str]:
        return self.living

    def draining(self) -> dict[str, int]:
        return self.leaving


async def test_each_machine_is_told_of_with_its_end_until_it_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes, told = FakeNodes(), []
    moments = iter([1000.0, 1000.0, 1000.0, 1000.0, 1010.0])

    async def leaving(node: str, end: float) -> None:
        told.append((node, end))

    watch = NodeWatch(nodes, notice_seconds=30.0, clock=lambda: next(moments))
    await watch.poll([leaving])
    assert (told, watch.workers()) == ([], ("a", "b"))
    nodes.leaving = {"a": 1_025_000}
    await watch.poll([leaving])
    await watch.poll([leaving])
    # what was on its way there has begun meanwhile
    assert (told, watch.workers()) == ([("a", 1025.0)] * 2, ("b",))
    assert caplog.text.count("node a goes away in 25 s") == 1
    nodes.leaving = {"b": 0}
    await watch.poll([leaving])
    await watch.poll([leaving])
    # an end that is not known is that of a notice, and does not recede
    assert told[2:] == [("b", 1030.0)] * 2


async def test_one_who_fails_does_not_keep_it_from_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes, told = FakeNodes(), []
    nodes.leaving = {"a": 5000}

    async def fails(node: str, end: float) -> None:
        raise StoreError("the disk is full")

    async def leaving(node: str, end: float) -> None:
        told.append(node)

    await NodeWatch(nodes, 30.0, clock=lambda: 0.0).poll([fails, leaving])
    assert told == ["a"]
    assert "not all was moved: the disk is full" in caplog.text
