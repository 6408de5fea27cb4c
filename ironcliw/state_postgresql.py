"""Copies of a state store in PostgreSQL, by the server's own programs.

`pg_dump` makes them. `pg_restore` turns one into statements, which `psql` runs in one transaction
after it has dropped all tables, also those that an older copy does not know.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sqlalchemy import inspect, text
from sqlalchemy.engine import make_url

from ironcliw.errors import ConflictError, NotFoundError, StoreError
from ironcliw.settings import process_environment
from ironcliw.store import Store

_USERS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid()"
)


def backup(url: str, target: Path) -> None:
    """Copies a database, as it stands at one moment, into one file; others may go on writing.

    Args:
        url: Of the state store.
        target: Made with mode 0600, in pg_dump's custom format; it must not exist.

    Raises:
        ConflictError: `target` exists.
        StoreError: The program is not installed, or it failed; no file is left.
    """
    if target.exists():
        raise ConflictError(f"{target} exists already and is left as it is; name another file")
    try:
        handle, draft = tempfile.mkstemp(prefix=".state-", dir=target.parent)  # mode 0600
        os.close(handle)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error}") from error
    try:
        _run("pg_dump", "--format=custom", f"--file={draft}", url=url)
        os.link(draft, target)  # unlike a rename it replaces nothing
    finally:
        os.unlink(draft)


def restore(url: str, source: Path, kept: Path) -> None:
    """Puts a copy in the place of what a database holds, in one transaction.

    Args:
        url: Of the state store; the database exists.
        source: A file that `backup` made.
        kept: Where what was there is copied to before.

    Raises:
        NotFoundError: There is no file `source`.
        StoreError: The database is in use, a program is not installed, or it failed; nothing has
            changed.
    """
    if not source.is_file():
        raise NotFoundError(
            f"there is no file {source}; give one that `ironcliw state backup` made"
        )
    with Store(url) as store:
        with store.read() as connection:
            others = connection.execute(_USERS).scalar_one()
        if others:
            raise StoreError(
                f"{others} other connections use the state store {store.name}; run `ironcliw down` "
                "first, and end what else has it open"
            )
        with store.read() as connection:
            quote = connection.dialect.identifier_preparer.quote
            names = [quote(name) for name in inspect(connection).get_table_names()]
    with tempfile.TemporaryDirectory(prefix="ironcliw-restore-") as folder:  # mode 0700
        drop, script = Path(folder) / "drop.sql", Path(folder) / "restore.sql"
        drop.write_text("".join(f"DROP TABLE {name} CASCADE;\n" for name in names))
        _run("pg_restore", "--no-owner", f"--file={script}", str(source))
        backup(url, kept)
        how = ("--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1")
        _run("psql", *how, f"--file={drop}", f"--file={script}", url=url)


def _run(program: str, *arguments: str, url: str | None = None) -> None:
    """Runs a program, connected to the database of a URL if one is given."""
    found = shutil.which(program)
    if found is None:
        raise StoreError(
            f"{program} was not found, and it makes and reads the copies of a PostgreSQL database; "
            "install PostgreSQL's client programs (Debian and Ubuntu: apt-get install "
            "postgresql-client; macOS: brew install libpq)"
        )
    connection, password = ("", None) if url is None else _connection_string(url)
    done = subprocess.run(
        [found, *arguments, *([f"--dbname={connection}"] if connection else [])],
        # the password is not among the arguments, which every user of the machine can read
        env=process_environment(**({"PGPASSWORD": password} if password else {})),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise StoreError(f"{program} failed, nothing was changed: {'; '.join(lines[:3])}")


def _connection_string(url: str) -> tuple[str, str | None]:
    """What libpq connects with, without the password; and the password."""
    from psycopg.conninfo import make_conninfo

    parsed = make_url(url)
    words = {**parsed.translate_connect_args(username="user", database="dbname"), **parsed.query}
    password = words.pop("password", None)
    return make_conninfo(**words), str(password) if password is not None else None
