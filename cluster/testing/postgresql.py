"""A private PostgreSQL server, for tests and benchmarks of the state store."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ironcliw.errors import UnsupportedError

_PLACES = (
    "usr/lib/postgresql/*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)
_START_SECONDS = 60


@contextmanager
def postgresql_server(*, durable: bool = True) -> Iterator[Path]:
    """Runs a server for the time of the block; gives the folder of its socket.

    Args:
        durable: Whether a commit waits for the disk. Tests that only ask what is stored need not.

    Raises:
        UnsupportedError: The programs are not installed, or nobody can run them.
    """
    binaries, account = _binaries(), _account()
    # a short path, open to the server's user: it becomes the path of a Unix socket
    folder = Path(tempfile.mkdtemp(prefix="icw-pg-"))
    if account is not None:
        shutil.chown(folder, account)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [binaries / program, *arguments],
            user=account,
            cwd=folder,
            check=True,
            timeout=_START_SECONDS,
            stdout=subprocess.DEVNULL,
        )

    data, sync = str(folder / "data"), "on" if durable else "off"
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync={sync}"
    try:
        run("initdb", "--no-sync", "--auth=trust", "--username=ironcliw", "--pgdata", data)
        run("pg_ctl", "start", "-w", "-D", data, "-o", options, "-l", str(folder / "log"))
        try:
            yield folder
        finally:
            run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)
    finally:
        shutil.rmtree(folder)


@contextmanager
def empty_database(server: Path) -> Iterator[str]:
    """The URL of a new database on such a server; it is dropped at the end of the block."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    where = f"host={server} user=ironcliw dbname=postgres"
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield f"postgresql://ironcliw@/{name}?host={server}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _binaries() -> Path:
    """The folder that holds `initdb` and `pg_ctl`."""
    for pattern in _PLACES:
        for folder in sorted(Path("/").glob(pattern), reverse=True):
            if (folder / "initdb").exists():
                return folder
    found = shutil.which("initdb")
    if found is None:
        raise UnsupportedError(
            "PostgreSQL's initdb was not found: install a server (Debian and Ubuntu: apt-get "
            "install postgresql; macOS: brew install postgresql@17)"
        )
    return Path(found).resolve().parent


def _account() -> str | None:
    """The user that the server runs as; None for our own. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    if "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        raise UnsupportedError(
            "PostgreSQL refuses to run as root and there is no user 'postgres' to run it: install "
            "a server from your system's packages (apt-get install postgresql)"
        )
    return "postgres"
