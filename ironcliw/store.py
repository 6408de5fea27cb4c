"""The state store: one SQL database that outlives every process of the cluster.

SQLite by default (one file, write-ahead log, one writer at a time), PostgreSQL by URL. Tables are
declared in the folder that owns them, on the shared `metadata`; each folder ships the Alembic
revisions that create and change its tables, and `Store.migrate` brings them all up to date.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from sqlalchemy import Connection, DateTime, Dialect, MetaData, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.types import TypeDecorator

from ironcliw.errors import SettingsError, StoreError
from ironcliw.store_engines import (
    BUSY_SECONDS,
    WRITE,
    create_file,
    postgresql_engine,
    sqlite_engine,
)

_MIGRATION_LOCK = 0x69637700  # "icw\0": any constant that no other program is likely to lock

metadata = MetaData(
    # explicit names, because a constraint without one cannot be dropped by a later revision
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every table of the project; a folder adds its own when its module is imported."""

_RESTORE = "put a copy in its place with `ironcliw state restore FILE`"
_HINTS = (
    ("not a database", f"move the file away to start afresh, or {_RESTORE}"),
    ("malformed", f"the file is damaged: {_RESTORE}, or move it away"),
    ("locked", f"another process has been writing for over {BUSY_SECONDS:.0f} s: stop it"),
    ("no such table", "migrate the store before using it"),
    ("does not exist", "create the database, or migrate the store before using it"),
    ("unable to open", "the file was removed or may not be read: check the path and its owner"),
    ("readonly", "write inside `store.write()`, and check the owner of the file"),
    ("read-only", "write inside `store.write()`"),
    ("full", "free some space on the disk"),
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC: aware datetimes in, aware datetimes out, on every database.

    SQLite has no time zones, so the zone is taken off on the way in and put back on the way out.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; give an aware datetime")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Store:
    """Opens the state store; safe to share between threads, one a process.

    Args:
        url: `sqlite:////absolute/path/state.db` or `postgresql://user:password@host/database`.
            An absent SQLite file is created (mode 0600, its folder 0700).

    Raises:
        SettingsError: The URL is malformed or names another kind of database.
        StoreError: The file cannot be created, or the PostgreSQL driver is not installed.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.dialect = parsed.get_backend_name()
        if self.dialect == "sqlite":
            path = Path(str(parsed.database)).absolute()
            self.name = str(path)
            create_file(path)
            self._writer = sqlite_engine(path)
        else:
            # the query is left out: it may carry a password
            self.name = parsed.set(query={}).render_as_string(hide_password=True)
            self._writer = postgresql_engine(parsed)
        self._reader = self._writer.execution_options(**{WRITE: False}, **self._read_only())

    def __repr__(self) -> str:
        return f"Store({self.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_only(self) -> dict[str, bool]:
        return {"postgresql_readonly": True} if self.dialect == "postgresql" else {}

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one snapshot and may not write.

        Raises:
            StoreError: The database cannot be used, or a statement tried to write.
        """
        with self._translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection in a transaction: committed at the end, rolled back on any error.

        With SQLite there is one writer at a time, over all processes: keep the block short.

        Raises:
            StoreError: The database cannot be used, or another writer did not finish in time.
            IntegrityError: SQLAlchemy's own, so that the caller can say which rule was broken.
        """
        with self._translated(), self._writer.begin() as connection:
            yield connection

    def migrate(self, branches: Mapping[str, str] | None = None) -> None:
        """Brings the schema up to date; harmless to repeat, and to run in many processes at once.

        Args:
            branches: Alembic branch label -> package whose `versions` folder holds its revisions.
                Default: the branches of every installed folder.

        Raises:
            NewerFormatError: A newer release has changed this database.
            StoreError: The database cannot be used, or a folder lacks its revisions.
        """
        # alembic is imported here: nobody but the process that starts the cluster pays for it
        from ironcliw.migrations import BRANCHES, Revisions

        revisions = Revisions(BRANCHES if branches is None else branches)
        with self.read() as connection:
            if revisions.reached(connection, self.name):
                return
        with self.write() as connection:
            if self.dialect == "postgresql":  # SQLite's BEGIN IMMEDIATE is such a lock already
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                )
            if not revisions.reached(connection, self.name):
                revisions.upgrade(connection)

    def check(self) -> None:
        """Makes sure, before work begins, that the store can be read whole and written.

        SQLite reads every page of the file: a second for some hundred megabytes. PostgreSQL checks
        its pages itself, when it reads them.

        Raises:
            StoreError: It is damaged, or somebody else holds the lock; it is as it was before.
        """
        if self.dialect == "sqlite":
            with self.read() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if found != "ok":
                raise StoreError(
                    f"the state store {self.name} is damaged: {' '.join(str(found).split())}; "
                    f"nothing was written; {_RESTORE}, or move it away to start afresh"
                )
        with self.write():
            pass

    def close(self) -> None:
        """Closes the idle connections; the store opens new ones if it is used again."""
        self._writer.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            reason = str(error.orig).strip().partition("\n")[0]
            hint = next((hint for word, hint in _HINTS if word in reason), "see the cause above")
            raise StoreError(
                f"the state store {self.name} cannot be used: {reason}; {hint}"
            ) from error


def _parse(url: str) -> URL:
    rule = "give sqlite:////absolute/path/state.db or postgresql://user:password@host/database"
    try:
        parsed = make_url(url)
    except ArgumentError:
        # the URL itself may hold a password, so neither it nor the cause is repeated
        raise SettingsError(f"the URL of the state store is malformed; {rule}") from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise SettingsError(f"the state store cannot be a {backend!r} database; {rule}")
    if backend == "sqlite" and (parsed.database or ":memory:") == ":memory:":
        raise SettingsError(f"the state store must outlive the process, {url!r} does not; {rule}")
    return parsed
