"""Orchestrators on a real journal and a real store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.journal import Journal
from actors.lease import Lease
from actors.orchestration.options import OrchestratorOptions
from actors.orchestrator import Orchestrator
from actors.workflow.tasks import Executor
from ironcliw.store import Store

Start = Callable[..., Awaitable[Orchestrator]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        store.migrate()
        yield store


@pytest.fixture
async def start(store: Store) -> AsyncIterator[Start]:
    """Starts an orchestrator with that executor; all are closed at the end."""
    opened: list[tuple[Orchestrator, Journal]] = []

    async def begin(
        executor: Executor,
        *,
        lease: Lease | None = None,
        change: Callable[[Journal], Any] = lambda journal: journal,
        clock: Callable[[], float] = time.time,
        **options: Any,
    ) -> Orchestrator:
        journal = Journal(store, lease=lease)
        orchestrator = Orchestrator(
            change(journal), executor, clock, OrchestratorOptions(**options)
        )
        opened.append((orchestrator, journal))
        await orchestrator.start()
        return orchestrator

    yield begin
    for orchestrator, journal in opened:
        await orchestrator.close()
        await journal.close()
