"""`ironcliw state backup` and `restore`, on every database that the store supports."""

from __future__ import annotations

import json
import shutil
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from ironcliw import state_sqlite
from ironcliw.cli import main
from ironcliw.errors import StoreError
from ironcliw.store import Store
from serve.keys import ApiKeys


@pytest.fixture(autouse=True)
def chosen(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line means this store."""
    monkeypatch.setenv("IRONCLIW_STORE__URL", store_url)
    monkeypatch.setenv("IRONCLIW_STATE_DIR", str(tmp_path / "home"))


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["state", *words])
    return int(caught.value.code or 0)


def names(url: str) -> set[str]:
    with Store(url) as store:
        return {key.name for key in ApiKeys(store).list()}


def test_what_was_copied_comes_back_and_what_was_there_is_kept(
    store: Store, store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    ApiKeys(store).create("before")
    assert run("backup", str(copy), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": str(copy),
        "bytes": copy.stat().st_size,
    }
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    content = copy.read_bytes()
    ApiKeys(store).create("after")
    with store.write() as connection:  # of a later release, say
        connection.execute(text("CREATE TABLE later (n INTEGER)"))
    store.close()

    assert run("restore", str(copy), "--json") == 0
    kept = Path(json.loads(capsys.readouterr().out)["kept"])
    assert names(store_url) == {"before"}
    with Store(store_url) as restored:
        restored.check()
        with restored.read() as connection:
            assert "later" not in inspect(connection).get_table_names()
        restored.migrate()
    assert copy.read_bytes() == content

    assert run("restore", str(kept)) == 0
    assert names(store_url) == {"before", "after"}
    assert "what was there before is kept as" in capsys.readouterr().out


def test_a_copy_is_of_one_moment_while_others_write(
    store: Store, store_url: str, tmp_path: Path
) -> None:
    with store.write() as connection:
        connection.execute(text("CREATE TABLE pairs (a INTEGER, b INTEGER)"))
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with store.write() as connection:
                connection.execute(text("INSERT INTO pairs VALUES (:n, NULL)"), {"n": number})
                connection.execute(text("UPDATE pairs SET b = :n WHERE a = :n"), {"n": number})
            if number == 20:
                written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(60)
        assert run("backup", str(tmp_path / "copy")) == 0
    finally:
        stop.set()
        writer.join(60)
    store.close()
    assert run("restore", str(tmp_path / "copy")) == 0
    with Store(store_url) as restored, restored.read() as connection:
        rows = connection.execute(text("SELECT a, b FROM pairs ORDER BY a")).all()
    assert rows == [(n, n) for n in range(1, len(rows) + 1)]
    assert len(rows) >= 20


def test_nothing_is_written_over(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("something else")
    assert run("backup", str(tmp_path / "mine")) == 4
    assert "exists already and is left as it is" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "something else"


def test_a_store_in_use_is_not_replaced(
    store: Store, store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("backup", str(tmp_path / "copy")) == 0
    ApiKeys(store).create("after")
    assert run("restore", str(tmp_path / "copy")) == 1
    assert "ironcliw down` first" in capsys.readouterr().err
    assert names(store_url) == {"after"}


@pytest.mark.parametrize("content", [b"no copy at all", b"SQLite format 3\0" * 400, b""])
def test_what_is_no_copy_changes_nothing(
    store: Store,
    store_url: str,
    tmp_path: Path,
    content: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ApiKeys(store).create("mine")
    store.close()
    (tmp_path / "copy").write_bytes(content)
    assert run("restore", str(tmp_path / "copy")) == 1
    assert "copy is no sound copy" in (err := capsys.readouterr().err) or "pg_restore failed" in err
    assert run("restore", str(tmp_path / "absent")) == 4
    assert "there is no file" in capsys.readouterr().err
    assert names(store_url) == {"mine"}
    assert not list((tmp_path).glob("**/.state-*"))


def test_missing_programs_are_named(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    done = run("backup", str(tmp_path / "copy"))
    if store.dialect == "sqlite":  # it needs none
        assert done == 0
        return
    assert done == 1
    assert "pg_dump was not found" in (err := capsys.readouterr().err)
    assert "apt-get install postgresql-client" in err
    assert list(tmp_path.glob("*copy*")) == list(tmp_path.glob(".state-*")) == []


class TestSqlite:
    """What only a file can suffer."""

    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'state' / 'state.db'}"

    def test_a_damaged_store_is_replaced_and_kept_with_its_log(
        self, store: Store, store_url: str, tmp_path: Path
    ) -> None:
        path, copy = tmp_path / "state" / "state.db", tmp_path / "copy"
        ApiKeys(store).create("before")
        state_sqlite.backup(path, copy)
        store.close()
        path.write_bytes(b"rubbish" * 1000)
        Path(f"{path}-wal").write_bytes(b"a log")
        kept = state_sqlite.restore(path, copy)
        assert kept is not None
        assert kept.read_bytes() == b"rubbish" * 1000
        assert Path(f"{kept}-wal.damaged").read_bytes() == b"a log"
        assert names(store_url) == {"before"}

    def test_a_damaged_store_is_not_copied(self, store: Store, tmp_path: Path) -> None:
        path, copy = tmp_path / "state" / "state.db", tmp_path / "copy"
        store.close()
        content = bytearray(path.read_bytes())
        content[-4096:] = b"\xff" * 4096
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"state\.db is damaged: .*Page"):
            state_sqlite.backup(path, copy)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["state"]

    def test_a_copy_of_a_newer_release_is_refused(
        self, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with store.write() as connection:
            change = "SET version_num = 'serve_9999' WHERE version_num LIKE 'serve%'"
            connection.execute(text(f"UPDATE alembic_version {change}"))
        assert run("backup", str(tmp_path / "copy")) == 0
        store.close()
        assert run("restore", str(tmp_path / "copy")) == 1
        assert "copy stands at revision serve_9999" in capsys.readouterr().err

    def test_the_file_of_a_running_store_is_no_copy(self, store: Store, tmp_path: Path) -> None:
        path = tmp_path / "state" / "state.db"
        ApiKeys(store).create("mine")
        with pytest.raises(StoreError, match=r"no copy but in use: .*state\.db-wal holds"):
            state_sqlite.restore(tmp_path / "elsewhere" / "state.db", path)

    def test_a_store_can_be_put_where_there_is_none(self, store: Store, tmp_path: Path) -> None:
        copy, target = tmp_path / "copy", tmp_path / "new" / "state.db"
        ApiKeys(store).create("mine")
        state_sqlite.backup(tmp_path / "state" / "state.db", copy)
        assert state_sqlite.restore(target, copy) is None
        assert names(f"sqlite:///{target}") == {"mine"}
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
