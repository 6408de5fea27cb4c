"""The state store's files and the errors that its users read."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from ironcliw import migrations
from ironcliw.errors import SettingsError, StoreError
from ironcliw.migrations import BRANCHES, Revisions
from ironcliw.store import Store, UtcDateTime

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{path}") as store:
        store.migrate()
        yield store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_file_and_its_folder_are_private(store: Store, path: Path) -> None:
    assert mode(path.parent) == 0o700
    with store.write() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
        assert {file.name: mode(file) for file in path.parent.iterdir()} == {
            "state.db": 0o600,
            "state.db-shm": 0o600,
            "state.db-wal": 0o600,
        }


def test_a_file_is_born_in_write_ahead_mode(path: Path) -> None:
    Store(f"sqlite:///{path}").close()
    # https://www.sqlite.org/fileformat2.html section 1.3: read and write version, 2 is WAL
    assert path.read_bytes()[18:20] == bytes([2, 2])


def test_connections_are_set_up(store: Store) -> None:
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "fullfsync": 1,
        "checkpoint_fullfsync": 1,
        "foreign_keys": 1,
        "busy_timeout": 10_000,
    }
    with store.read() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in wanted}
    assert found == wanted


def test_a_reader_sees_one_snapshot_and_never_waits_for_the_writer(store: Store) -> None:
    count = text("SELECT count(*) FROM alembic_version")
    with store.read() as reader:
        before = reader.execute(count).scalar_one()
        assert before > 0
        with store.write() as writer:
            writer.execute(text("DELETE FROM alembic_version"))
        assert reader.execute(count).scalar_one() == before
    with store.read() as reader:
        assert reader.execute(count).scalar_one() == 0


def test_a_writer_that_waits_too_long_is_told_why(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ironcliw.store_engines.BUSY_SECONDS", 0.05)
    with Store(f"sqlite:///{path}") as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(StoreError, match=r"state\.db cannot be used: .*locked.*writing"),
            store.write(),
        ):
            pytest.fail("two writers at once")


@pytest.mark.parametrize("content", [b"not a database, only text " * 50, b"SQLite format 3\0" * 99])
def test_a_file_that_is_no_database_is_named(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with (
        Store(f"sqlite:///{path}") as store,
        pytest.raises(StoreError, match=f"{path} cannot be used: .*move (the file|it) away"),
    ):
        store.migrate()
    assert path.read_bytes() == content


def test_a_damaged_page_is_found_before_work_begins(store: Store, path: Path) -> None:
    store.check()
    with store.write() as connection:
        connection.execute(text("CREATE TABLE numbers (n INTEGER)"))
        for n in range(3000):
            connection.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": n})
    store.close()
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\xff" * 4096
    path.write_bytes(content)
    with Store(f"sqlite:///{path}") as damaged:
        with pytest.raises(StoreError, match=r"damaged: .*Page.*nothing was written.*restore FILE"):
            damaged.check()
    assert path.read_bytes() == content


def test_a_store_that_another_process_locks_is_found_before_work_begins(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ironcliw.store_engines.BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(path)) as other, Store(f"sqlite:///{path}") as waiting:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"locked.*writing for over 10 s: stop it"):
            waiting.check()


def test_a_file_that_was_removed_is_not_replaced_by_an_empty_one(store: Store, path: Path) -> None:
    store.close()
    path.unlink()
    with pytest.raises(StoreError, match="file was removed"), store.read() as connection:
        connection.execute(text("SELECT 1"))
    assert not path.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"state/state\.db cannot be created.*name a folder"):
        Store(f"sqlite:///{tmp_path}/state/state.db")


def test_a_store_that_was_not_migrated_says_so(path: Path) -> None:
    with (
        Store(f"sqlite:///{path}") as store,
        pytest.raises(StoreError, match="no such table: api_keys; migrate the store"),
        store.read() as connection,
    ):
        connection.execute(text("SELECT * FROM api_keys"))


def test_creating_leaves_no_draft_behind_and_keeps_what_is_there(path: Path) -> None:
    with Store(f"sqlite:///{path}") as first:
        first.migrate()
    content = path.read_bytes()
    Store(f"sqlite:///{path}").close()
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["state.db"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("state.db", "URL of the state store is malformed; give sqlite:"),
        ("mysql://u:hunter2@host/db", "cannot be a 'mysql' database"),
        ("sqlite://", "must outlive the process"),
        ("sqlite:///:memory:", "must outlive the process"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Store(url)
    assert "hunter2" not in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r'psycopg.*pip install "psycopg\[binary\]"'):
        Store("postgresql://ironcliw@localhost/ironcliw")


def test_a_server_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://ironcliw:hunter2@/ironcliw?host={tmp_path}&password=hunter3"
    with Store(url) as store:
        with pytest.raises(StoreError, match=r"ironcliw:\*\*\*@/ironcliw cannot be used") as caught:
            store.migrate()
        assert "hunter" not in f"{caught.value} {store!r}"


def test_moments_without_a_zone_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="has no time zone"), store.read() as connection:
        UtcDateTime().process_bind_param(datetime(2026, 3, 1), connection.dialect)


def test_a_folder_that_is_not_installed_is_left_out() -> None:
    assert Revisions({"y": "no_such_folder.migrations"}).heads == frozenset()


@pytest.mark.parametrize("package", ["serve.no_such_package", "serve.engines", "serve.keys"])
def test_a_folder_without_its_revisions_is_an_error(package: str) -> None:
    with pytest.raises(StoreError, match=f"branch 'serve' are missing.*'{package}'"):
        Revisions({"serve": package})


@pytest.mark.parametrize(("label", "package"), BRANCHES.items())
def test_each_branch_is_one_line_that_starts_at_its_label(label: str, package: str) -> None:
    folder = migrations._versions(label, package)
    assert folder is not None
    script = ScriptDirectory(folder, version_locations=[folder])
    steps = list(script.walk_revisions())
    assert script.get_revision(script.get_bases()[0]).branch_labels == {label}
    assert len(script.get_bases()) == len(script.get_heads()) == 1
    for step in steps:
        assert step.revision.startswith(f"{label}_")
        assert Path(step.path).stem.startswith(f"{step.revision}_")


def test_the_package_and_the_store_load_without_alembic() -> None:
    code = (
        "import sys, ironcliw; assert 'sqlalchemy' not in sys.modules;"
        "import ironcliw.store; assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
