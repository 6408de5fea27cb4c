"""The rows that belong to no class of their own, and the revision that makes the tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select, text

from cluster.migrations.versions import cluster_0001_machines, cluster_0002_boot
from cluster.money import ledger_rows
from cluster.tables import cluster_zone_state, load_zone_state, save_zone_state
from ironcliw.store import Store

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        store.migrate()
        yield store


def test_what_was_learnt_about_zones_is_one_row_that_is_replaced(store: Store) -> None:
    assert load_zone_state(store) is None
    save_zone_state(store, {"us-central1-a": {"until": 12.5}}, NOW)
    save_zone_state(store, {"us-central1-b": None}, NOW)
    assert load_zone_state(store) == {"us-central1-b": None}
    with store.read() as connection:
        assert connection.execute(select(cluster_zone_state.c.updated_at)).scalars().all() == [NOW]


def test_the_revisions_can_be_taken_back(store: Store) -> None:
    with store.write() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context):
            cluster_0002_boot.downgrade()
            columns = inspect(connection).get_columns("cluster_egress")
            assert [one["name"] for one in columns] == ["node", "day", "bytes", "counter"]
            cluster_0001_machines.downgrade()
        assert not [name for name in inspect(connection).get_table_names() if "cluster" in name]


def test_a_meter_that_was_read_before_boots_were_kept_goes_on(store: Store) -> None:
    today = date(2026, 3, 1)
    with store.write() as connection:
        with Operations.context(MigrationContext.configure(connection)):
            cluster_0002_boot.downgrade()
        connection.execute(text("INSERT INTO cluster_egress VALUES ('one', '2026-03-01', 5, 5)"))
        with Operations.context(MigrationContext.configure(connection)):
            cluster_0002_boot.upgrade()
        ledger_rows.add_egress(connection, "one", "boot", 7, today)
        assert ledger_rows.egress(connection, NOW) == {today: 7}
        ledger_rows.add_egress(connection, "one", "next", 7, today)
        assert ledger_rows.egress(connection, NOW) == {today: 14}
