"""Databases for the contract tests: a SQLite file, and a private PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster.testing.postgresql import empty_database, postgresql_server
from ironcliw.errors import UnsupportedError
from ironcliw.store import Store
from tests.requirements import need


@pytest.fixture(scope="session")
def postgresql_folder() -> Iterator[Path]:
    """The socket folder of a server that lives as long as the test run."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(postgresql_server(durable=False))
        except UnsupportedError as error:
            need(None, str(error))
            raise
        yield folder


@pytest.fixture
def postgresql_url(postgresql_folder: Path) -> Iterator[str]:
    """An empty database of its own for each test."""
    with empty_database(postgresql_folder) as url:
        yield url


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
