"""A bench of agents on either store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.agents.bench import AgentBench
from actors.agents.records import AgentStore, JournalStore, MemoryStore
from actors.journal import Journal
from ironcliw.store import Store
from tests.unit.actors.agents.counter import PATIENT, Counter


@pytest.fixture(params=["memory", "journal"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AgentStore]:
    Counter.handled = []
    Counter.gate = asyncio.Event()
    if request.param == "memory":
        yield MemoryStore()
        return
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as found:
        found.migrate()
        journal = Journal(found)
        yield JournalStore(journal)
        await journal.close()


@pytest.fixture
async def bench(store: AgentStore) -> AsyncIterator[AgentBench]:
    async with AgentBench(store=store, policy=PATIENT, cloud=True) as bench:
        yield bench
