"""Why a durable message failed, as its record keeps it."""

from __future__ import annotations

from pathlib import Path

from actors.agents.records import JournalStore
from actors.journal import Journal
from actors.message_records import MessageRow
from ironcliw.store import Store


async def test_a_long_error_is_cut_where_it_enters_the_record(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as found:
        found.migrate()
        journal = Journal(found)
        store = JournalStore(journal)
        told = "x" * 4000 + "... (1,044,576 characters more)"
        for name in ("again", "dead"):
            await store.add_message(MessageRow(name, "a", None, 2, 0.0))
            await store.delivered(name)
        await store.again("again", "x" * 1_048_576, counts=True)
        await store.dead("dead", "x" * 1_048_576)
        assert [row.error for row in await store.open_messages()] == [told]
        assert [row.error for row in await store.dead_letters(None, 10)] == [told]
        await journal.close()
