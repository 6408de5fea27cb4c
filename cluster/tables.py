"""Tables of the state store that hold machines and money.

Money is counted in whole micro-dollars and time in whole microseconds: sums of integers are exact,
so a cap is kept to the last unit, while sums of floats drift with their number and their order, and
SQLite has no decimal type. What is divided is rounded up, against us. Floats are for printing only.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Date,
    Index,
    Integer,
    String,
    Table,
    Text,
    insert,
    select,
    update,
)

from ironcliw.store import Store, UtcDateTime, metadata

cluster_vms = Table(
    "cluster_vms",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("zone", String(63), nullable=False),
    Column("machine_type", String(63), nullable=False),
    Column("market", String(7), nullable=False),
    Column("disk_gb", Integer, nullable=False),
    Column("max_run_seconds", Integer),  # NULL: nothing ends it
    # micro-dollars an hour, as they were when the machine was reserved; NULL: no price is known
    Column("compute_rate", BigInteger),
    Column("disk_rate", BigInteger),
    Column("address_rate", BigInteger),
    Column("reserved_at", UtcDateTime),  # NULL: found in the cloud, without a reservation
    Column("created_at", UtcDateTime),  # by the cloud's clock; NULL: reserved, not seen yet
    Column("started_at", UtcDateTime),
    Column("deadline", UtcDateTime),  # its vCPUs cost nothing after it; NULL: no such moment
    Column("stopped_at", UtcDateTime),  # from then on its disk alone costs
    Column("missing_since", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("used_by", JSON, nullable=False),  # "job/ID" or "deployment/NAME" -> seconds of use
    Index("ix_cluster_vms_ended_at", "ended_at"),
)

cluster_egress = Table(
    "cluster_egress",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("day", Date, primary_key=True),  # in UTC
    Column("bytes", BigInteger, nullable=False),
    Column("counter", BigInteger, nullable=False),  # what the node's meter read last
    # of the node, when that was read; empty: not known
    Column("boot", String(64), nullable=False, server_default=""),
)

cluster_events = Table(
    "cluster_events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("message", Text, nullable=False),
    Column("facts", JSON, nullable=False),
)

cluster_zone_state = Table(
    "cluster_zone_state",
    metadata,
    Column("id", Integer, primary_key=True),  # always 1: the table holds one row
    Column("state", JSON, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)


def load_zone_state(store: Store) -> Any:
    """What `save_zone_state` kept last; None before the first time."""
    with store.read() as connection:
        return connection.execute(select(cluster_zone_state.c.state)).scalar_one_or_none()


def save_zone_state(store: Store, state: Any, now: datetime) -> None:
    """Keeps what was learnt about zones, in place of what was kept before.

    Args:
        store: Migrated already.
        state: Anything that JSON can hold.
        now: Aware.
    """
    row = {"state": state, "updated_at": now}
    with store.write() as connection:
        if connection.execute(update(cluster_zone_state).values(row)).rowcount == 0:
            connection.execute(insert(cluster_zone_state).values(id=1, **row))
