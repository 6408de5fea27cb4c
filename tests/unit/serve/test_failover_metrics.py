"""The figures of failover, as they go to Ray's metrics agent."""

from __future__ import annotations

from typing import Any

import pytest

from serve.metrics import FailoverMetrics


class Metric:
    """What a counter or gauge was told."""

    known: dict[str, Metric] = {}  # noqa: RUF012

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.tag_keys = tag_keys
        self.values: dict[tuple[str, ...], float] = {}
        Metric.known[name] = self

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.set(self.values.get(self._key(tags), 0) + value, tags)

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] = value

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        assert tuple(tags) == self.tag_keys
        return tuple(tags.values())


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("serve.metrics.Counter", Metric)
    monkeypatch.setattr("serve.metrics.Gauge", Metric)
    return FailoverMetrics()


def test_attempts_and_failovers_are_counted(metrics: FailoverMetrics) -> None:
    for outcome in ("ok", "ok", "lost"):
        metrics.on_attempt("spot", outcome)
    metrics.on_failover("lost")
    attempts = Metric.known["ironcliw_attempts_total"].values
    assert attempts == {("spot", "ok"): 2, ("spot", "lost"): 1}
    assert Metric.known["ironcliw_failovers_total"].values == {("lost",): 1}


def test_one_state_at_a_time(metrics: FailoverMetrics) -> None:
    for phase in ("waking", "awake"):
        metrics.on_phase(phase)
        states = Metric.known["ironcliw_spot_state"].values
        assert [name for (name,), value in states.items() if value] == [phase]
        assert len(states) == 4
