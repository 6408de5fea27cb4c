"""The end of all that runs in the control actor."""

from __future__ import annotations

from typing import Any

import pytest

from actors.composition import Composition
from ironcliw.errors import StoreError


class Part:
    """Notes how it ends; `error` is raised instead."""

    def __init__(self, name: str, ended: list[str], error: Exception | None = None) -> None:
        self._name = name
        self._ended = ended
        self._error = error

    async def close(self, seconds: float = 0.0) -> None:
        if self._error is not None:
            raise self._error
        self._ended.append(self._name)

    rest = flush = close


def composition(ended: list[str], **errors: Exception) -> Composition:
    made: dict[str, Any] = {
        name: Part(name, ended, errors.get(name))
        for name in ("orchestrator", "agents", "log", "journal")
    }
    unused: Any = None
    return Composition(parts={}, executor=unused, exporter=unused, pruner=unused, **made)


async def test_a_log_that_cannot_be_written_keeps_nothing_from_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []
    await composition(ended, log=ValueError("no JSON")).close(1.0)
    assert ended == ["orchestrator", "agents", "journal"]
    assert "the last routing decisions are not written" in caplog.text


async def test_agents_that_do_not_come_to_rest_keep_nothing_else_from_its_end() -> None:
    ended: list[str] = []
    with pytest.raises(StoreError, match="it is away"):
        await composition(ended, agents=StoreError("it is away")).close(1.0)
    assert ended == ["orchestrator", "log", "journal"]
