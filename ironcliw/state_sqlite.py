"""Copies of a state store in a SQLite file: made while it is used, put back while it is not."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from ironcliw.durable import sync
from ironcliw.errors import ConflictError, NotFoundError, StoreError
from ironcliw.migrations import BRANCHES, Revisions
from ironcliw.store import Store
from ironcliw.store_engines import BUSY_SECONDS


def backup(path: Path, target: Path) -> None:
    """Copies a store, as it stands at one moment, into one file; others may go on writing.

    Args:
        path: The store's file.
        target: Made with mode 0600; it must not exist.

    Raises:
        ConflictError: `target` exists.
        NotFoundError: There is no such store.
        StoreError: The store is damaged, or `target` cannot be written; no file is left.
    """
    if target.exists():
        raise ConflictError(f"{target} exists already and is left as it is; name another file")
    if not path.exists():
        raise NotFoundError(f"there is no state store {path}; `ironcliw up` makes one")
    try:
        with _draft(target.parent) as draft:
            with closing(_open(path)) as source, closing(sqlite3.connect(draft)) as copy:
                source.backup(copy)  # all pages in one step, which is one snapshot
                copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
                _require_sound(copy, path)
            sync(draft)
            os.link(draft, target)  # unlike a rename it replaces nothing
        sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path} cannot be copied to {target}: {error}") from error


def restore(path: Path, source: Path) -> Path | None:
    """Puts a copy in the place of a store, and keeps what was there under another name.

    Args:
        path: The store's file; it need not exist, and may be damaged.
        source: A file that `backup` made. It is not changed.

    Returns:
        Where the former store is; None: there was none.

    Raises:
        NotFoundError: There is no file `source`.
        NewerFormatError: A newer release has made it.
        StoreError: It is damaged or no state store, or the store is in use; nothing has changed.
    """
    if not source.is_file():
        raise NotFoundError(
            f"there is no file {source}; give one that `ironcliw state backup` made"
        )
    if Path(f"{source}-wal").exists():
        raise StoreError(
            f"{source} is no copy but in use: {source}-wal holds what it lacks; make a copy with "
            "`ironcliw state backup` where it is used"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _draft(path.parent) as draft:
            shutil.copyfile(source, draft)
            _require_ours(draft, source)
            sync(draft)
            return _replace(path, draft)
    except OSError as error:
        raise StoreError(f"{source} cannot be put in the place of {path}: {error}") from error


def _replace(path: Path, draft: Path) -> Path | None:
    kept = None
    if path.exists():
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = path.with_name(f"{path.name}.before-{stamp}")
        _keep(path, kept)
    for ending in ("-wal", "-shm"):  # left only beside a damaged file; they would spoil the new one
        Path(f"{path}{ending}").unlink(missing_ok=True)
    os.replace(draft, path)  # at every moment there is one store or the other
    sync(path.parent)
    return kept


def _keep(path: Path, kept: Path) -> None:
    """Gives a store that nobody uses a second name; of a damaged one also its log."""
    log, kept_log = Path(f"{path}-wal"), Path(f"{kept}-wal.damaged")
    if log.exists():  # SQLite may throw it away when it finds the file damaged
        os.link(log, kept_log)
    is_whole = True
    try:
        is_whole = _fold_log(path)
    finally:
        if is_whole:
            kept_log.unlink(missing_ok=True)
    os.link(path, kept)


def _fold_log(path: Path) -> bool:
    """Brings what stands in the log into the file, by leaving write-ahead mode.

    SQLite allows that only to the one process that has the file open.

    Returns:
        False: the file is damaged, which is why it is replaced.
    """
    try:
        with closing(_open(path, timeout=0.0)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.DatabaseError as error:
        if "locked" not in str(error):
            return False
        raise StoreError(
            f"the state store {path} is in use; run `ironcliw down` first, and end what else "
            "has it open"
        ) from error
    return True


def _require_ours(draft: Path, source: Path) -> None:
    with Store(f"sqlite:///{draft}") as store:
        try:
            store.check()
            with store.read() as connection:
                if not connection.dialect.has_table(connection, "alembic_version"):
                    raise StoreError("it holds no version of its tables")
                Revisions(BRANCHES).reached(connection, str(source))
        except StoreError as error:
            message = error.message.replace(str(draft), str(source))
            if type(error) is not StoreError:
                raise type(error)(message) from error
            raise StoreError(f"{source} is no sound copy of a state store: {message}") from error


def _require_sound(copy: sqlite3.Connection, path: Path) -> None:
    found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreError(
            f"the state store {path} is damaged: {' '.join(found.split())}; no copy was made"
        )


def _open(path: Path, timeout: float = BUSY_SECONDS) -> sqlite3.Connection:
    # mode=rw: never a new file
    url = f"file:{quote(str(path))}?mode=rw"
    return sqlite3.connect(url, uri=True, timeout=timeout, isolation_level=None)


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A file, private, that is gone at the end unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=".state-", dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        for ending in ("", "-wal", "-shm", "-journal"):
            Path(f"{name}{ending}").unlink(missing_ok=True)
