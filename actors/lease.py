"""Who leads: at most one process at a time carries out what the state store says.

A lease is a row with an epoch that goes up by one at each take-over. Whoever writes checks the
epoch in the same transaction, so a leader that was taken for dead, and wakes up again, cannot write
any more. Time only decides how soon somebody else may take over, never who may write: clocks that
disagree cost a wait, not a workflow.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import psutil
from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from actors.tables import actors_leases as leases
from ironcliw.errors import LeaseLostError
from ironcliw.store import Store

LEASE_SECONDS = 10.0
"""How long a leader on another machine may be silent before somebody takes over."""

RENEW_SECONDS = 3.0
"""How often a leader renews, so that two renewals may fail."""

_WAIT_SECONDS = 0.5
_START_TOLERANCE_SECONDS = 2.0  # Linux derives the start of a process from a clock that is adjusted


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to lead, as long as nobody has taken over.

    Attributes:
        name: Of what is led, such as "orchestrator".
        holder: Who leads, for people.
        epoch: How many have led, this one included.
    """

    name: str
    holder: str
    epoch: int

    def check(self, connection: Connection) -> None:
        """Makes sure that the lease is ours until the transaction of the connection ends.

        Raises:
            LeaseLostError: It is not.
        """
        query = select(leases.c.epoch, leases.c.holder).where(leases.c.name == self.name)
        if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
            query = query.with_for_update(read=True)
        row = connection.execute(query).one_or_none()
        if row is None or row.epoch != self.epoch or row.holder != self.holder:
            raise self._lost(row)

    def renew(self, connection: Connection, now: float | None = None) -> None:
        """Puts the end off; to be committed every `RENEW_SECONDS`.

        Raises:
            LeaseLostError: Somebody has taken over.
        """
        self._change(connection, until=(time.time() if now is None else now) + LEASE_SECONDS)

    def release(self, connection: Connection) -> None:
        """Gives the lease back, so that the next one need not wait.

        Raises:
            LeaseLostError: Somebody has taken over.
        """
        self._change(connection, until=0.0, holder="")

    def _change(self, connection: Connection, **values: Any) -> None:
        ours = (leases.c.name == self.name) & (leases.c.epoch == self.epoch)
        ours &= leases.c.holder == self.holder
        if connection.execute(update(leases).where(ours).values(**values)).rowcount == 0:
            query = select(leases.c.epoch, leases.c.holder).where(leases.c.name == self.name)
            raise self._lost(connection.execute(query).one_or_none())

    def _lost(self, row: Any) -> LeaseLostError:
        told = "it is gone" if row is None else f"epoch {row.epoch}, {row.holder or 'released'}"
        return LeaseLostError(
            f"{self.holder} led {self.name!r} in epoch {self.epoch} and does so no more ({told}); "
            "nothing was written"
        )


def acquire(store: Store, name: str, holder: str, now: float | None = None) -> Lease | None:
    """Takes a lease that nobody has.

    One that a process of this machine had is free as soon as that process is gone; one of another
    machine when it was not renewed for `LEASE_SECONDS`.

    Args:
        store: Migrated already.
        name: Of what is led.
        holder: Who asks, for people; not empty.
        now: The wall clock; by default that of this moment.

    Returns:
        None when somebody else leads.

    Raises:
        StoreError: The store cannot be used.
    """
    assert holder, "an empty holder marks a lease that was released"
    moment = time.time() if now is None else now
    ours: dict[str, Any] = {
        "holder": holder,
        "until": moment + LEASE_SECONDS,
        "host": _host(),
        "pid": os.getpid(),
        "pid_started": psutil.Process().create_time(),
    }
    try:
        with store.write() as connection:
            query = select(leases).where(leases.c.name == name).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None:
                connection.execute(insert(leases).values(name=name, epoch=1, **ours))
                return Lease(name, holder, 1)
            if not _is_free(row, moment):
                return None
            epoch = row.epoch + 1
            connection.execute(
                update(leases).where(leases.c.name == name), {"epoch": epoch, **ours}
            )
            return Lease(name, holder, epoch)
    except IntegrityError:  # two asked for the first lease at once, on PostgreSQL
        return None


def holder_of(store: Store, name: str) -> str | None:
    """Who leads, for people; None: nobody does, or has ever.

    Raises:
        StoreError: The store cannot be used.
    """
    query = select(leases.c.holder).where(leases.c.name == name)
    with store.read() as connection:
        return connection.execute(query).scalar_one_or_none() or None


async def wait_for_lease(
    store: Store, name: str, holder: str, report: Callable[[], None] = lambda: None
) -> Lease:
    """Takes a lease as soon as it is free.

    Args:
        store: Migrated already.
        name: Of what is led.
        holder: Who asks, for people.
        report: Called once, when somebody else leads and we wait.

    Raises:
        StoreError: The store cannot be used.
    """
    is_first = True
    while (lease := await asyncio.to_thread(acquire, store, name, holder)) is None:
        if is_first:
            report()
            is_first = False
        await asyncio.sleep(_WAIT_SECONDS)
    return lease


def _is_free(row: Row[Any], now: float) -> bool:
    if row.until < now:
        return True
    return row.host == _host() and not _is_alive(row.pid, row.pid_started)


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:  # killed, and its parent has not looked yet
            return False
        return abs(process.create_time() - started) < _START_TOLERANCE_SECONDS
    except psutil.NoSuchProcess:
        return False


@cache
def _host() -> str:
    """This machine; where it has no network card, a name of this process's own."""
    return f"{socket.gethostname()}/{uuid.getnode():012x}"
