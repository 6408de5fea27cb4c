"""Databases for the contract tests: a SQLite file, and a private PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ironcliw.store import Store
from tests.requirements import need

PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


def _binaries() -> Path:
    """The folder that holds `initdb` and `pg_ctl`."""
    for pattern in PLACES:
        for folder in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
            if (folder / "initdb").exists():
                return folder
    found = need(
        shutil.which("initdb"),
        "PostgreSQL's initdb was not found: install a server (Debian and Ubuntu: apt-get install "
        "postgresql; macOS: brew install postgresql@17)",
    )
    return Path(found).resolve().parent


def _account() -> str | None:
    """The user that the server runs as; None for our own. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return need(
        "postgres" if "postgres" in names else None,
        "PostgreSQL refuses to run as root and there is no user 'postgres' to run it: install a "
        "server from your system's packages (apt-get install postgresql)",
    )


@pytest.fixture(scope="session")
def postgresql_folder() -> Iterator[Path]:
    """The socket folder of a server that lives as long as the test run."""
    binaries, account = _binaries(), _account()
    # not pytest's folder: closed to other users, and too long for the path of a Unix socket
    folder = Path(tempfile.mkdtemp(prefix="icw-pg-"))
    if account is not None:
        shutil.chown(folder, account)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [binaries / program, *arguments],
            user=account,
            cwd=folder,
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )

    data = str(folder / "data")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    try:
        run("initdb", "--no-sync", "--auth=trust", "--username=ironcliw", "--pgdata", data)
        run("pg_ctl", "start", "-w", "-D", data, "-o", options, "-l", str(folder / "log"))
        try:
            yield folder
        finally:
            run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgresql_url(postgresql_folder: Path) -> Iterator[str]:
    """An empty database of its own for each test."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    server = f"host={postgresql_folder} user=ironcliw dbname=postgres"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield f"postgresql://ironcliw@/{name}?host={postgresql_folder}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty state store, on every database that we support."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'state.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """The same, migrated."""
    with Store(store_url) as store:
        store.migrate()
        yield store
