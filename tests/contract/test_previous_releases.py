"""The files that earlier releases left are opened, brought up to date, and lose nothing.

`data/state_*.sql` are dumps of stores that those releases made themselves.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from actors import workflow_records
from actors.workflow_records import WorkflowRow
from cluster import tables as cluster_tables
from ironcliw import state_sqlite
from ironcliw.migrations import BRANCHES
from ironcliw.store import Store, metadata
from serve.aliases import ModelAliases
from serve.keys import ApiKeys

DATA = Path(__file__).parent / "data"
# keys that never opened anything but these stores
SECRETS = {
    "state_0_3_0": "icw-856d8733-f6kbppwjCCpJ7p8cVWkSpT3--wGoHTMzq9KtFAViARQ",
    "state_before_actors": "icw-598d8d4f-VJsJtAPXKt4yBinxkGo88z01NSIhSQhvsLJqLt4fCyQ",
}


@pytest.fixture(params=sorted(SECRETS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(name: str, tmp_path: Path) -> Iterator[Store]:
    """A store of an earlier release, opened by this one."""
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DATA / f"{name}.sql").read_text(encoding="utf-8"))
        connection.execute("PRAGMA journal_mode=WAL")
    with Store(f"sqlite:///{path}") as store:
        store.check()
        store.migrate()
        yield store


def test_its_tables_become_those_of_this_release(opened: Store) -> None:
    with opened.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_its_keys_still_open(opened: Store, name: str) -> None:
    keys = ApiKeys(opened)
    found = keys.verify(SECRETS[name])
    assert found is not None
    assert (found.name, found.max_concurrency) == ("laptop", 4)
    assert sorted(found.scopes) == ["infer", "workflow"]
    assert {key.name: key.revoked_at is None for key in keys.list()} == {
        "laptop": True,
        "old": False,
    }


def test_what_is_new_can_be_used(opened: Store) -> None:
    row = WorkflowRow("w1", "answer", "local", {}, {}, "running", 2, 1.0, 1.0)
    with opened.write() as connection:
        workflow_records.insert_workflow(connection, row)
    with opened.read() as connection:
        assert [found for found, _ in workflow_records.load_open(connection)] == [row]


@pytest.mark.parametrize("name", ["state_before_actors"])
def test_its_machines_money_and_aliases_are_there(opened: Store) -> None:
    aliases = ModelAliases(opened)
    aliases.refresh()
    assert [alias.target for alias in aliases.all()] == ["all-MiniLM-L6-v2"]
    assert cluster_tables.load_zone_state(opened) == {"zones": {}}
    with opened.read() as connection:
        (vm,) = connection.execute(cluster_tables.cluster_vms.select())
        (egress,) = connection.execute(cluster_tables.cluster_egress.select())
    assert (vm.name, vm.compute_rate, vm.used_by) == ("vm-1", 63_800, {"job/1": 12.5})
    assert (egress.bytes, egress.boot) == (5, "b")


def test_a_database_from_before_the_actors_keeps_its_rows(store_url: str) -> None:
    before = {label: package for label, package in BRANCHES.items() if label != "actors"}
    with Store(store_url) as store:
        store.migrate(before)
        key, secret = ApiKeys(store).create("laptop")
        store.migrate()
        assert ApiKeys(store).verify(secret) == key
        with store.read() as connection:
            assert "actors_workflows" in inspect(connection).get_table_names()
            assert connection.execute(text("SELECT count(*) FROM actors_leases")).scalar() == 0


def test_a_copy_that_an_earlier_release_made_can_be_restored(name: str, tmp_path: Path) -> None:
    copy, target = tmp_path / "copy", tmp_path / "elsewhere" / "state.db"
    with closing(sqlite3.connect(copy)) as connection:
        connection.executescript((DATA / f"{name}.sql").read_text(encoding="utf-8"))
    assert state_sqlite.restore(target, copy) is None
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with Store(f"sqlite:///{target}") as restored:
        restored.migrate()
        assert ApiKeys(restored).verify(SECRETS[name]) is not None
