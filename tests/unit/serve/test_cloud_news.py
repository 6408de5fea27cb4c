"""The newest event that explains why there is no machine."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.events import EventLog
from ironcliw.store import Store
from serve.cloud_news import CloudNews

START = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Cluster:
    """A store with events, and a wall clock."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.now = START
        self.store = Store(url)
        self.store.migrate()
        self.events = EventLog(self.store, lambda: self.now)

    def news(self) -> str | None:
        return CloudNews(self.url, lambda: self.now)()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(f"sqlite:///{tmp_path / 'state.db'}")
    yield made
    made.store.close()


def test_the_newest_that_explains_it(cluster: Cluster) -> None:
    assert cluster.news() is None
    cluster.events.add("launch_failed", "no capacity in us-central1-a")
    cluster.events.add("refused", "the month's cap is reached")
    cluster.events.add("left", "machine a is gone")
    assert cluster.news() == "refused: the month's cap is reached"
    cluster.events.add("launch", "machine b launched in us-central1-b")
    assert cluster.news() == "launch: machine b launched in us-central1-b"


def test_old_news_explains_nothing(cluster: Cluster) -> None:
    cluster.events.add("refused", "the month's cap is reached")
    cluster.now += timedelta(minutes=11)
    assert cluster.news() is None


def test_the_store_is_read_once_in_a_while(cluster: Cluster) -> None:
    news = CloudNews(cluster.url, lambda: cluster.now)
    assert news() is None
    cluster.events.add("refused", "the month's cap is reached")
    assert news() is None
    news._read_at -= 3
    assert news() is not None


def test_a_store_that_cannot_be_read_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    news = CloudNews(f"sqlite:///{tmp_path / 'missing' / 'state.db'}")
    assert news() is None
    assert "the cluster's events cannot be read" in caplog.text
