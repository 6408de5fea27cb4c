"""What an agent system keeps: in the state store, or in memory for tests of agents."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from sqlalchemy import Connection, select, update

from actors import agent_records, message_records
from actors.agent_records import AgentRow
from actors.journal import Journal
from actors.message_records import DEAD, DELIVERED, DONE, QUEUED, MessageRow
from actors.tables import actors_messages
from actors.workflow.shown import as_message
from ironcliw.errors import NotFoundError


class AgentStore(Protocol):
    """Agents, their last states, and durable messages. Whatever returns is kept."""

    async def agents(self) -> list[AgentRow]: ...

    async def save(self, row: AgentRow) -> None: ...

    async def change(self, name: str, **changes: Any) -> None: ...

    async def remove(self, name: str) -> None: ...

    async def save_snapshots(self, states: Mapping[str, bytes]) -> None: ...

    async def snapshot(self, name: str) -> bytes | None: ...

    async def add_message(self, row: MessageRow) -> str:
        """Keep a message; returns its id, or that of the earlier one with its key."""

    async def delivered(self, message_id: str) -> None: ...

    async def done(self, message_id: str) -> None: ...

    async def dead(self, message_id: str, error: str) -> None: ...

    async def again(self, message_id: str, error: str, *, counts: bool) -> None:
        """It was not done; `counts`: the delivery was an attempt."""

    async def open_messages(self) -> list[MessageRow]:
        """Those that are not done: the urgent first, then in their order."""

    async def dead_letters(self, recipient: str | None, limit: int) -> list[MessageRow]: ...

    async def replay(self, message_id: str) -> MessageRow: ...


class JournalStore:
    """Keeps them in the state store.

    Args:
        journal: commits.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def agents(self) -> list[AgentRow]:
        return await self._journal.read(agent_records.load_agents)

    async def save(self, row: AgentRow) -> None:
        await self._journal.commit(lambda c: agent_records.save_agent(c, row))

    async def change(self, name: str, **changes: Any) -> None:
        await self._journal.commit(lambda c: agent_records.change_agent(c, name, **changes))

    async def remove(self, name: str) -> None:
        await self._journal.commit(lambda c: agent_records.remove_agent(c, name))

    async def save_snapshots(self, states: Mapping[str, bytes]) -> None:
        now = time.time()

        def work(connection: Connection) -> None:
            for name, state in states.items():
                agent_records.save_snapshot(connection, name, state, now)

        await self._journal.commit(work)

    async def snapshot(self, name: str) -> bytes | None:
        found = await self._journal.read(lambda c: agent_records.load_snapshot(c, name))
        return None if found is None else found[0]

    async def add_message(self, row: MessageRow) -> str:
        def work(connection: Connection) -> str:
            table = actors_messages
            if connection.execute(select(table.c.id).where(table.c.id == row.id)).first():
                return row.id  # its sender did not hear of it, and tries again
            if message_records.insert_messages(connection, [row])[0]:
                return row.id
            known = select(table.c.id).where(
                table.c.recipient == row.recipient, table.c.key == row.key
            )
            return str(connection.execute(known).scalar_one())

        return await self._journal.commit(work)

    async def delivered(self, message_id: str) -> None:
        await self._journal.commit(lambda c: message_records.mark_delivered(c, [message_id]))

    async def done(self, message_id: str) -> None:
        now = time.time()
        await self._journal.commit(lambda c: message_records.mark_done(c, [message_id], now))

    async def dead(self, message_id: str, error: str) -> None:
        now, why = time.time(), as_message(error)
        await self._journal.commit(lambda c: message_records.mark_dead(c, message_id, why, now))

    async def again(self, message_id: str, error: str, *, counts: bool) -> None:
        def work(connection: Connection) -> None:
            if not counts:
                table = actors_messages
                which = (table.c.id == message_id) & (table.c.status == DELIVERED)
                fewer = update(table).where(which).values(attempts=table.c.attempts - 1)
                connection.execute(fewer)
            message_records.requeue(connection, [message_id], as_message(error))

        await self._journal.commit(work)

    async def open_messages(self) -> list[MessageRow]:
        return await self._journal.read(_open_messages)

    async def dead_letters(self, recipient: str | None, limit: int) -> list[MessageRow]:
        return await self._journal.read(
            lambda c: message_records.dead_letters(c, recipient=recipient, limit=limit)
        )

    async def replay(self, message_id: str) -> MessageRow:
        return await self._journal.commit(lambda c: message_records.replay_dead(c, message_id))


def _open_messages(connection: Connection) -> list[MessageRow]:
    table = actors_messages
    query = (
        select(*(table.c[name] for name in MessageRow.__slots__))
        .where(table.c.status.in_((QUEUED, DELIVERED)))
        .order_by(table.c.priority, table.c.seq)
    )
    return [MessageRow(*row) for row in connection.execute(query)]


class MemoryStore:
    """Keeps them as long as the process lives: for tests of agents, where nothing is durable."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentRow] = {}
        self._states: dict[str, bytes] = {}
        self._messages: dict[str, MessageRow] = {}

    async def agents(self) -> list[AgentRow]:
        return [self._agents[name] for name in sorted(self._agents)]

    async def save(self, row: AgentRow) -> None:
        self._agents[row.name] = row

    async def change(self, name: str, **changes: Any) -> None:
        if name in self._agents:
            self._agents[name] = replace(self._agents[name], **changes)

    async def remove(self, name: str) -> None:
        self._agents.pop(name, None)
        self._states.pop(name, None)

    async def save_snapshots(self, states: Mapping[str, bytes]) -> None:
        self._states.update(states)

    async def snapshot(self, name: str) -> bytes | None:
        return self._states.get(name)

    async def add_message(self, row: MessageRow) -> str:
        for known in self._messages.values():
            if row.key is not None and (known.recipient, known.key) == (row.recipient, row.key):
                return known.id
        self._messages.setdefault(row.id, row)
        return row.id

    async def delivered(self, message_id: str) -> None:
        attempts = self._messages[message_id].attempts + 1
        self._change(message_id, status=DELIVERED, attempts=attempts)

    async def done(self, message_id: str) -> None:
        self._change(message_id, status=DONE, error=None, finished_at=time.time())

    async def dead(self, message_id: str, error: str) -> None:
        self._change(message_id, status=DEAD, error=error, finished_at=time.time())

    async def again(self, message_id: str, error: str, *, counts: bool) -> None:
        row = self._messages[message_id]
        fewer = int(not counts and row.status == DELIVERED)
        self._change(message_id, status=QUEUED, error=error, attempts=row.attempts - fewer)

    async def open_messages(self) -> list[MessageRow]:
        found = [row for row in self._messages.values() if row.status in (QUEUED, DELIVERED)]
        return sorted(found, key=lambda row: row.priority)

    async def dead_letters(self, recipient: str | None, limit: int) -> list[MessageRow]:
        found = [row for row in self._messages.values() if row.status == DEAD]
        return [row for row in reversed(found) if recipient in (None, row.recipient)][:limit]

    async def replay(self, message_id: str) -> MessageRow:
        row = self._messages.get(message_id)
        if row is None or row.status != DEAD:
            raise NotFoundError(f"there is no dead letter {message_id!r}; list those there are")
        self._change(message_id, status=QUEUED, attempts=0, error=None, finished_at=None)
        return self._messages[message_id]

    def _change(self, message_id: str, **changes: Any) -> None:
        self._messages[message_id] = replace(self._messages[message_id], **changes)
