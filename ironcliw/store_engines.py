"""How the state store's databases are opened: a SQLite file with its settings, or PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection

from ironcliw.errors import StoreError

BUSY_SECONDS = 10.0
"""How long a SQLite connection waits for the one writer before it gives up."""

CONNECT_SECONDS = 5
"""How long to wait for a PostgreSQL server to accept a connection."""

WRITE = "ironcliw_write"
"""The execution option that tells the SQLite hook which BEGIN to send."""

# FULL: what was committed survives the loss of power, not only of the process. An fsync of macOS
# leaves the bytes in the drive's own memory; fullfsync has the drive write them. Elsewhere it does
# nothing.
_SQLITE_SETTINGS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "fullfsync=ON",
    "checkpoint_fullfsync=ON",
    "foreign_keys=ON",
)


def create_file(path: Path) -> None:
    """Creates an empty database in write-ahead mode, unless there is a file already.

    The file is made under another name and linked into place, because turning the mode on is the
    one step in which SQLite does not wait for other processes (it fails with "locked" at once).
    """
    if path.exists():
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
        os.close(handle)
        try:
            with closing(sqlite3.connect(draft)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            os.link(draft, path)  # SQLite syncs the folder with its first commit
        except FileExistsError:
            pass  # another process was faster: its file is as good
        finally:
            os.unlink(draft)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"the state store {path} cannot be created: {error}; name a folder that is yours"
        ) from error


def sqlite_engine(path: Path) -> Engine:
    """Connections to a file that exists."""
    # mode=rw: a file that was removed under us is an error, not a reason for an empty new one
    url = URL.create(
        "sqlite+pysqlite",
        database=f"file:{quote(str(path))}",
        query={"mode": "rw", "uri": "true"},
    )
    engine = create_engine(
        url, connect_args={"timeout": BUSY_SECONDS}, execution_options={WRITE: True}
    )

    @event.listens_for(engine, "connect")
    def configure(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None  # BEGIN is ours: see `begin`
        cursor = connection.cursor()
        for setting in _SQLITE_SETTINGS:
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a plain BEGIN takes the write lock at the first write, where SQLite cannot wait for it
        write = connection.get_execution_options()[WRITE]
        connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if write else 'ON'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def postgresql_engine(url: URL) -> Engine:
    """Connections to a server.

    Raises:
        StoreError: The driver is not installed.
    """
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        # pre-ping: a server that was restarted costs one round trip, not one failed request
        return create_engine(
            url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS}
        )
    except ImportError as error:
        raise StoreError(
            f"the state store is a PostgreSQL database and its driver is not installed ({error});"
            ' install it with: pip install "psycopg[binary]"'
        ) from error
