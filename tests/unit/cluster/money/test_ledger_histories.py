"""The caps hold over random histories: the bill of a simulated cloud never passes them.

`python -m benchmarks.cluster_budget` plays ten thousand of them on the real store.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from cluster.testing.money_histories import BUGS, JUMPS, PRICES, bug, play, watch
from cluster.testing.simulated_cloud import History, clear
from ironcliw.setting_sections import BudgetSettings
from ironcliw.store import Store
from tests.unit.cluster.dict_store import DictRows, DictStore

HEADS = st.integers(0, 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        store.migrate()
        yield store


def check(store: Store | DictStore, seeds: range) -> None:
    granted = refused = beyond = 0
    for seed in seeds:
        history = fresh(store, seed)
        beyond += history.beyond
        granted, refused = granted + history.granted, refused + history.refused
        assert history.breaches() == [], f"seed {seed}"
    # histories in which nothing is launched, or nothing is refused, would prove nothing
    assert granted > 2 * len(seeds)
    assert refused > 2 * len(seeds)
    # some had more machines than the autoscaler counts
    assert beyond > len(seeds) / 20


def fresh(store: Store | DictStore, seed: int) -> History:
    if isinstance(store, DictStore):
        store.forget()
    else:
        clear(store)
    return play(cast(Store, store), seed)


def test_no_bill_passes_a_cap(store: Store) -> None:
    check(store, range(25))


@pytest.mark.parametrize(
    "count",
    [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_no_bill_passes_a_cap_in_many_histories(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.money.ledger.rows", DictRows)
    check(DictStore(), range(count))


@pytest.mark.parametrize("name", BUGS)
def test_a_mistake_breaks_a_cap(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.money.ledger.rows", DictRows)
    store = DictStore()
    with bug(name):
        assert any(fresh(store, seed).breaches() for seed in range(2000))


class Histories(RuleBasedStateMachine):
    """The same steps, chosen and shortened by hypothesis."""

    store: Store

    @initialize(
        month=st.floats(0.9, 6),
        day=st.none() | st.floats(0.3, 1.5),
        max_run=st.sampled_from((60, 3600, 4 * 3600, 100 * 3600)),
    )
    def begin(self, month: float, day: float | None, max_run: int) -> None:
        clear(self.store)
        self.history = History(self.store, BudgetSettings(month_usd=month, day_usd=day), max_run)

    @rule(head=HEADS, size=st.sampled_from((20, 50)), wait=st.floats(0, 60), is_sent=st.booleans())
    def reserve(self, head: int, size: int, wait: float, is_sent: bool) -> None:
        self.history.observe(head)
        self.history.advance(wait)
        request = self.history.reserve(head, size)
        if request is not None and is_sent:
            self.history.insert(request, delay=wait, boot=4 * wait, lag=2 * wait, late=150)

    @rule(head=HEADS)
    def reserve_again(self, head: int) -> None:
        self.history.reserve(head, 20)

    @rule(head=HEADS, hidden=st.none() | st.integers(0, 9))
    def observe(self, head: int, hidden: int | None) -> None:
        self.history.observe(head, hidden)

    @rule(head=HEADS)
    def watch(self, head: int) -> None:
        watch(self.history, head)

    @rule(head=HEADS)
    def reap(self, head: int) -> None:
        self.history.reap(head)

    @rule()
    def restart(self) -> None:
        self.history.restart()

    @rule(which=st.integers(0, 9), off_after=st.floats(0, 120), stays=st.booleans())
    def end(self, which: int, off_after: float, stays: bool) -> None:
        self.history.end(which, off_after, stays)

    @rule(count=st.sampled_from((5.0, 70.0, 900.0, 7200.0, 86400.0)))
    def advance(self, count: float) -> None:
        self.history.advance(count)

    @rule(month=st.booleans(), before=st.floats(0, 200))
    def to_the_end(self, month: bool, before: float) -> None:
        self.history.to_the_end(month, before)

    @rule(count=st.sampled_from(JUMPS))
    def jump(self, count: float) -> None:
        self.history.jump(count)

    @rule(usd=st.sampled_from(PRICES))
    def change_price(self, usd: float) -> None:
        self.history.change_price(usd)

    def teardown(self) -> None:
        assert self.history.breaches() == []


def test_no_history_that_hypothesis_finds_passes_a_cap(store: Store) -> None:
    machine = type("StoredHistories", (Histories,), {"store": store})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=30, stateful_step_count=25, deadline=None)
    )
