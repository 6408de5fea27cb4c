"""The standing of the learned policy in the state store: one row, changed by compare and set."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from actors.tables import actors_router_states as states
from ironcliw.errors import ConflictError, DataError
from rl.promotion import Standing, from_json, to_json

NAME = "routing"
Read = tuple[Standing, int]
"""A standing and the version under which it was read; 0: there is no row yet."""


def read_standing(connection: Connection) -> Read:
    """What is stored; a new standing where nothing is.

    Raises:
        DataError: another release has written it.
    """
    row = _row(connection)
    return (Standing(), 0) if row is None else (from_json(row.state), row.version)


def _row(connection: Connection) -> Any:
    """With `state` and `version`; None: there is none."""
    return connection.execute(
        select(states.c.state, states.c.version).where(states.c.name == NAME)
    ).one_or_none()


def write_standing(connection: Connection, standing: Standing, version: int) -> int:
    """Store it; returns the new version.

    Args:
        connection: In a transaction.
        standing: To be stored.
        version: Under which it was read.

    Raises:
        ConflictError: somebody has written since.
    """
    values: dict[str, Any] = {
        "version": version + 1, "updated_at": time.time(), "state": to_json(standing),
    }  # fmt: skip
    if version == 0:
        try:
            connection.execute(insert(states).values(name=NAME, **values))
        except IntegrityError as error:
            raise _changed() from error
        return 1
    where = (states.c.name == NAME) & (states.c.version == version)
    if connection.execute(update(states).where(where).values(values)).rowcount == 0:
        raise _changed()
    return version + 1


def _changed() -> ConflictError:
    return ConflictError("the standing of routing was changed meanwhile; ask again")


def change(
    connection: Connection,
    work: Callable[[Standing], Standing],
    anew: Callable[[DataError], Standing] | None = None,
) -> Standing:
    """Read, change and write in one transaction; nothing is written where nothing changed.

    Args:
        connection: In a transaction that is committed after it.
        work: From the old standing to the new one.
        anew: What is written in place of a standing of another release, and why it is that; None:
            such a one stays.

    Raises:
        DataError: another release has written it, and there is no `anew`.
    """
    row = _row(connection)
    version = 0 if row is None else row.version
    try:
        old = Standing() if row is None else from_json(row.state)
    except DataError as error:
        if anew is None:
            raise
        new = anew(error)
        write_standing(connection, new, version)
        return new
    new = work(old)
    if new != old:
        write_standing(connection, new, version)
    return new
