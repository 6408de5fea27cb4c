"""What the state store promises, on every database that it supports."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError

from actors import tables as actors_tables
from cluster import tables as cluster_tables
from ironcliw.errors import ConflictError, NewerFormatError, StoreError
from ironcliw.migrations import BRANCHES
from ironcliw.store import Store, metadata
from serve.aliases import model_aliases
from serve.keyring import KeyRing
from serve.keys import ApiKeys, Scope, api_keys

ROOT = Path(__file__).parents[2]
HEADS = {"actors_0002", "cluster_0002", "serve_0002"}


def revisions(store: Store) -> set[str]:
    with store.read() as connection:
        return set(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())


def tables(store: Store) -> set[str]:
    with store.read() as connection:
        return set(inspect(connection).get_table_names())


def test_migrating_creates_what_the_code_declares(store: Store) -> None:
    # a table is known when its module is imported
    known = (
        actors_tables.actors_workflows,
        cluster_tables.cluster_vms,
        api_keys,
        model_aliases,
    )
    assert all(table.metadata is metadata for table in known)
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert revisions(store) == HEADS


def test_migrating_again_changes_nothing(store: Store) -> None:
    key, _ = ApiKeys(store).create("laptop")
    store.migrate()
    assert ApiKeys(store).list() == [key]
    assert revisions(store) == HEADS


def test_a_store_at_the_base_is_migrated_to_the_head(store_url: str) -> None:
    with Store(store_url) as store:
        store.migrate(branches={})
        assert "api_keys" not in tables(store)
        store.migrate()
        assert "api_keys" in tables(store)


def test_an_unknown_revision_is_refused_and_nothing_is_touched(store: Store) -> None:
    with store.write() as connection:
        where = "version_num = 'serve_0002'"
        connection.execute(
            text(f"UPDATE alembic_version SET version_num = 'serve_9999' WHERE {where}")
        )
    known = r"serve_9999.*knows up to actors_0002, cluster_0002, serve_0002.*upgrade"
    with pytest.raises(NewerFormatError, match=known):
        store.migrate()
    assert revisions(store) == (HEADS - {"serve_0002"}) | {"serve_9999"}


FIRST = """
    from alembic import op
    import sqlalchemy as sa
    revision, down_revision, branch_labels, depends_on = "x_0001", None, ("x",), None
    def upgrade():
        op.create_table("x_notes", sa.Column("body", sa.String(9)))
"""
SECOND = """
    from alembic import op
    import sqlalchemy as sa
    revision, down_revision, branch_labels, depends_on = "x_0002", "x_0001", None, None
    def upgrade():
        op.add_column("x_notes", sa.Column("stars", sa.Integer, server_default="3"))
"""
BROKEN = """
    from alembic import op
    import sqlalchemy as sa
    revision, down_revision, branch_labels, depends_on = "x_0002", "x_0001", None, None
    def upgrade():
        op.add_column("x_notes", sa.Column("stars", sa.Integer))
        op.drop_column("x_notes", "absent")
"""


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a branch `x`, in a package of its own."""
    folder = tmp_path / "packages" / "ironcliw_x" / "versions"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    (folder / "x_0001.py").write_text(textwrap.dedent(FIRST), encoding="utf-8")
    return folder


def test_the_next_release_migrates_the_rows_of_this_one(store: Store, versions: Path) -> None:
    branches = {**BRANCHES, "x": "ironcliw_x"}
    store.migrate(branches)
    with store.write() as connection:
        connection.execute(text("INSERT INTO x_notes VALUES ('kept')"))
    (versions / "x_0002.py").write_text(textwrap.dedent(SECOND), encoding="utf-8")

    store.migrate(branches)

    with store.read() as connection:
        assert connection.execute(text("SELECT body, stars FROM x_notes")).all() == [("kept", 3)]
    assert revisions(store) == HEADS | {"x_0002"}


def test_a_migration_that_fails_leaves_the_store_as_it_was(store: Store, versions: Path) -> None:
    store.migrate({**BRANCHES, "x": "ironcliw_x"})
    with store.write() as connection:
        connection.execute(text("INSERT INTO x_notes VALUES ('kept')"))
    (versions / "x_0002.py").write_text(textwrap.dedent(BROKEN), encoding="utf-8")

    with pytest.raises(StoreError, match="absent"):
        store.migrate({**BRANCHES, "x": "ironcliw_x"})

    with store.read() as connection:
        assert connection.execute(text("SELECT * FROM x_notes")).all() == [("kept",)]
    assert revisions(store) == HEADS | {"x_0001"}


MIGRATE = """
import sys, alembic.script, ironcliw.migrations
from ironcliw.store import Store
print("ready", flush=True)
sys.stdin.readline()
with Store(sys.argv[1]) as store:
    store.migrate()
"""


def test_two_processes_may_migrate_at_once(store_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, store_url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    with Store(store_url) as store:
        assert revisions(store) == HEADS


def test_writes_are_rolled_back_on_any_error(store: Store) -> None:
    with pytest.raises(RuntimeError, match="half way"), store.write() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
        raise RuntimeError("half way")
    assert revisions(store) == HEADS


def test_a_reader_may_not_write_and_the_next_writer_may(store: Store) -> None:
    with (
        pytest.raises(StoreError, match=r"read-?only.*store\.write"),
        store.read() as connection,
    ):
        connection.execute(text("DELETE FROM alembic_version"))
    with store.write() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    assert revisions(store) == set()


def test_a_broken_constraint_reaches_the_caller_as_such(store: Store) -> None:
    with pytest.raises(IntegrityError, match="api_keys"), store.write() as connection:
        connection.execute(api_keys.insert(), {"id": "0" * 8})


def test_threads_write_one_after_the_other(store: Store) -> None:
    keys = ApiKeys(store)
    threads = [threading.Thread(target=keys.create, args=(f"key-{i}",)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert {key.name for key in keys.list()} == {f"key-{i}" for i in range(16)}


def test_moments_come_back_in_utc(store: Store) -> None:
    moment = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    key, _ = ApiKeys(store, now=lambda: moment).create("laptop")
    (read,) = ApiKeys(store).list()
    assert read.created_at == moment == key.created_at
    assert read.created_at.tzinfo is UTC
    with store.read() as connection:
        assert connection.execute(select(api_keys.c.revoked_at)).scalar_one() is None


def test_the_life_of_a_key(store: Store) -> None:
    keys = ApiKeys(store)
    key, secret = keys.create("laptop", [Scope.WORKFLOW, "infer"], max_concurrency=4)
    assert keys.verify(secret) == key == keys.list()[0]
    with pytest.raises(ConflictError, match="'laptop' exists already"):
        keys.create("laptop")

    assert keys.revoke("laptop").revoked_at is not None
    assert keys.verify(secret) is None
    assert keys.revoke(key.id) == keys.list()[0]

    successor, new_secret = keys.create("laptop")
    assert keys.verify(new_secret) == successor
    assert keys.verify(secret) is None


def test_a_ring_sees_the_keys_and_notes_their_use(store: Store) -> None:
    keys = ApiKeys(store)
    key, secret = keys.create("laptop")
    ring = KeyRing(keys)
    assert ring.lookup(secret) == key
    ring.flush()
    assert keys.list()[0].last_used_at is not None
