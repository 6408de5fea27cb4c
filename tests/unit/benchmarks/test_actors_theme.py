"""Theme `actors`: what its pages claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import actors_agents, actors_crowds
from benchmarks.harness import Options, Row


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leave_open(*_: Any) -> None: ...

    async def recover(*_: Any) -> float:
        return 0.1

    monkeypatch.setattr(actors_crowds, "_leave_open", leave_open)
    monkeypatch.setattr(actors_crowds, "_recover", recover)
    monkeypatch.setattr(actors_crowds.state_sqlite, "restore", lambda *_: None)
    monkeypatch.setattr(actors_agents, "with_agents", lambda work: (1000, [0.0001]))


@pytest.mark.parametrize("quick", [False, True])
def test_a_goal_is_met_by_as_many_as_it_speaks_of(quick: bool) -> None:
    options = Options(Path(), Path(), quick=quick)
    [recovery] = actors_crowds.recovery_rows(options)
    lookup = actors_agents.agent_rows(options)[1]
    sizes = ("1,000", "200") if quick else ("10,000", "1,000")
    for row, size in zip((recovery, lookup), sizes, strict=True):
        assert f" {size} " in row.name
        assert met(row) is (None if quick else True)


def met(row: Row) -> Any:
    return row.as_json()["met"]
