"""The ledger's rows in SQL: how intervals and egress are read and written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from cluster.money.intervals import LEAST_CHARGE, Interval
from cluster.money.prices import Rates
from cluster.tables import cluster_egress, cluster_vms

_RATES = {"compute_rate": "compute", "disk_rate": "disk", "address_rate": "address"}
_COLUMNS = tuple(field.name for field in fields(Interval) if field.name != "rates")
_CHUNK = 500  # names in one query; databases limit its parameters


def one(connection: Connection, name: str) -> Interval | None:
    """The machine of that name."""
    found = _select(connection, cluster_vms.c.name == name)
    return found[0] if found else None


def after(connection: Connection, since: datetime) -> Sequence[Interval]:
    """Machines that have not ended, or cost something after `since`."""
    ended_at = cluster_vms.c.ended_at
    return _select(connection, or_(ended_at.is_(None), ended_at > since - LEAST_CHARGE))


def unended(connection: Connection, names: Sequence[str]) -> dict[str, Interval]:
    """Machines that have not ended, and those with these names; by name."""
    found = {row.name: row for row in _select(connection, cluster_vms.c.ended_at.is_(None))}
    others = [name for name in names if name not in found]
    for start in range(0, len(others), _CHUNK):
        named = cluster_vms.c.name.in_(others[start : start + _CHUNK])
        found |= {row.name: row for row in _select(connection, named)}
    return found


def ordered(connection: Connection, names: Collection[str]) -> frozenset[str]:
    """Those of the names for which money was reserved once: their machines were ordered here."""
    wanted = list(names)
    found: set[str] = set()
    for start in range(0, len(wanted), _CHUNK):
        named = cluster_vms.c.name.in_(wanted[start : start + _CHUNK])
        query = select(cluster_vms.c.name).where(named, cluster_vms.c.reserved_at.is_not(None))
        found.update(connection.execute(query).scalars())
    return frozenset(found)


def write(connection: Connection, row: Interval, *, is_new: bool) -> None:
    """Keeps a machine's row as it is now."""
    values: dict[str, Any] = {name: getattr(row, name) for name in _COLUMNS}
    values["used_by"] = dict(row.used_by)
    for column, name in _RATES.items():
        values[column] = None if row.rates is None else getattr(row.rates, name)
    if is_new:
        connection.execute(insert(cluster_vms), values)
    else:
        connection.execute(update(cluster_vms).where(cluster_vms.c.name == row.name), values)


def remove(connection: Connection, name: str) -> None:
    """Forgets a machine that never was."""
    connection.execute(delete(cluster_vms).where(cluster_vms.c.name == name))


def egress(connection: Connection, since: datetime) -> dict[date, int]:
    """Bytes that left the cloud on each day from the one of `since` on."""
    day = cluster_egress.c.day
    query = select(day, func.sum(cluster_egress.c.bytes)).where(day >= since.date()).group_by(day)
    # PostgreSQL sums into a decimal number
    return {found: int(count) for found, count in connection.execute(query)}


def add_egress(connection: Connection, node: str, boot: str, counter: int, today: date) -> None:
    """Keeps what a node's meter reads, and on which day the bytes since its last reading left."""
    table = cluster_egress
    of_node = select(table).where(table.c.node == node).order_by(table.c.day.desc())
    last = connection.execute(of_node.limit(1)).one_or_none()
    before = last.counter if last is not None else 0
    # a row of an earlier release has no boot: there, a meter that reads less tells of another one
    is_other_boot = last is not None and last.boot not in ("", boot)
    sent = counter if is_other_boot or counter < before else counter - before
    if last is not None and last.day >= today:
        same = and_(table.c.node == node, table.c.day == last.day)
        change = {"bytes": last.bytes + sent, "counter": counter, "boot": boot}
        connection.execute(update(table).where(same), change)
    else:
        row = {"node": node, "day": today, "bytes": sent, "counter": counter, "boot": boot}
        connection.execute(insert(table), row)


def _select(connection: Connection, which: ColumnElement[bool]) -> Sequence[Interval]:
    query = select(cluster_vms).where(which).order_by(cluster_vms.c.name)
    return [_interval(row) for row in connection.execute(query)]


def _interval(row: Row[Any]) -> Interval:
    columns = dict(row._mapping)
    parts = {name: columns.pop(column) for column, name in _RATES.items()}
    rates = None if parts["compute"] is None else Rates(**parts)
    return Interval(rates=rates, **columns)
