"""Agents and their snapshots in the state store; every function works inside a transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from actors.tables import actors_agents as agents
from actors.tables import actors_snapshots as snapshots


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent as it is stored: all that it takes to start it again.

    Attributes:
        name: Unique.
        class_name: "module:Class".
        status: The registry's word for how it is.
        place: Where it may run.
        isolated: Whether it has a process to itself.
        registered_at: Seconds since 1970.
        restarts: How often it was started again.
        node: Where it runs; None: nowhere now.
        capabilities: JSON.
        options: JSON.
        arguments: With which the class is made, JSON.
    """

    name: str
    class_name: str
    status: str
    place: str
    isolated: bool
    registered_at: float
    restarts: int = 0
    node: str | None = None
    capabilities: Any = field(default_factory=list)
    options: Any = field(default_factory=dict)
    arguments: Any = field(default_factory=dict)


_COLUMNS = [agents.c[name] for name in AgentRow.__slots__]


def save_agent(connection: Connection, row: AgentRow) -> None:
    """Stores an agent in place of the one that had its name, if there was one."""
    values = {name: getattr(row, name) for name in AgentRow.__slots__}
    if connection.execute(update(agents).where(agents.c.name == row.name), values).rowcount == 0:
        connection.execute(insert(agents), values)


def change_agent(connection: Connection, name: str, **changes: Any) -> bool:
    """Changes some columns of an agent, such as `status`, `node` and `restarts`.

    Returns:
        Whether there is such an agent.
    """
    done = connection.execute(update(agents).where(agents.c.name == name).values(**changes))
    return done.rowcount > 0


def remove_agent(connection: Connection, name: str) -> bool:
    """Forgets an agent and its snapshot; its messages stay.

    Returns:
        Whether there was such an agent.
    """
    connection.execute(delete(snapshots).where(snapshots.c.agent == name))
    return connection.execute(delete(agents).where(agents.c.name == name)).rowcount > 0


def load_agents(connection: Connection) -> list[AgentRow]:
    """All agents, by name."""
    query = select(*_COLUMNS).order_by(agents.c.name)
    return [AgentRow(*row) for row in connection.execute(query)]


def save_snapshot(connection: Connection, agent: str, state: bytes, at: float) -> None:
    """Keeps the state of an agent in place of the one that was there.

    What is saved last counts, whatever clocks say: one process saves, and in order.

    Args:
        connection: In a transaction.
        agent: Its name.
        state: What the agent has made of itself.
        at: When, in seconds since 1970.
    """
    values = {"at": at, "state": state}
    change = update(snapshots).where(snapshots.c.agent == agent)
    if connection.execute(change, values).rowcount == 0:
        connection.execute(insert(snapshots), {"agent": agent, **values})


def load_snapshot(connection: Connection, agent: str) -> tuple[bytes, float] | None:
    """The state that was kept of an agent, and when it was; None: there is none."""
    query = select(snapshots.c.state, snapshots.c.at).where(snapshots.c.agent == agent)
    row = connection.execute(query).one_or_none()
    return None if row is None else (row.state, row.at)
