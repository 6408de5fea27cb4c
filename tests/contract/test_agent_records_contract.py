"""Agents and their snapshots, on every database that the store supports."""

from __future__ import annotations

from dataclasses import replace

from actors import agent_records as records
from actors.agent_records import AgentRow
from ironcliw.store import Store

ROW = AgentRow(
    name="writer",
    class_name="my.agents:Writer",
    status="running",
    place="any",
    isolated=True,
    registered_at=1764000000.5,
    restarts=2,
    node="node-1",
    capabilities=[{"name": "write"}],
    options={"mailbox": 10},
    arguments={"style": None},
)
STATE = bytes(range(256)) * 1000


def test_an_agent_comes_back_as_it_went_in_and_is_replaced_by_its_name(store: Store) -> None:
    reader = replace(ROW, name="reader", node=None, isolated=False)
    later = replace(ROW, restarts=3, status="stopped")
    with store.write() as connection:
        for row in (ROW, reader, later):
            records.save_agent(connection, row)
    with store.read() as connection:
        assert records.load_agents(connection) == [reader, later]


def test_columns_are_changed_alone(store: Store) -> None:
    with store.write() as connection:
        records.save_agent(connection, ROW)
        assert records.change_agent(connection, "writer", node=None, status="restarting")
        assert not records.change_agent(connection, "nobody", status="running")
    with store.read() as connection:
        assert records.load_agents(connection) == [replace(ROW, node=None, status="restarting")]


def test_a_snapshot_is_replaced_by_the_next_also_when_the_clock_steps_back(store: Store) -> None:
    with store.write() as connection:
        assert records.load_snapshot(connection, "writer") is None
        records.save_snapshot(connection, "writer", b"old", 10.5)
        records.save_snapshot(connection, "writer", STATE, 10.25)
    with store.read() as connection:
        assert records.load_snapshot(connection, "writer") == (STATE, 10.25)
    with store.write() as connection:
        records.save_snapshot(connection, "writer", b"", 11.0)
        records.save_snapshot(connection, "reader", b"r", 1.0)
        assert records.load_snapshot(connection, "writer") == (b"", 11.0)


def test_an_agent_is_forgotten_with_its_snapshot(store: Store) -> None:
    with store.write() as connection:
        records.save_agent(connection, ROW)
        records.save_snapshot(connection, "writer", STATE, 1.0)
        assert records.remove_agent(connection, "writer")
        assert not records.remove_agent(connection, "writer")
        assert records.load_snapshot(connection, "writer") is None
        assert records.load_agents(connection) == []
