"""The rows that belong to no class of their own, and the revision that makes the tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select

from cluster.migrations.versions import cluster_0001_machines as revision
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


def test_the_revision_can_be_taken_back(store: Store) -> None:
    with store.write() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context):
            revision.downgrade()
        assert not [name for name in inspect(connection).get_table_names() if "cluster" in name]
