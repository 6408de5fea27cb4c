"""The caps hold over random histories: the bill of a simulated cloud never passes them.

The head crashes, its clock jumps, listings are late or lack a machine, inserts arrive late or
never, machines outlive their `max_run`, stop themselves and keep their disks, prices change, and
two heads reserve in turns. In the end the head is gone for good, and the bill runs on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from cluster.money.intervals import SEND_SECONDS
from ironcliw.setting_sections import BudgetSettings
from ironcliw.store import Store
from tests.unit.cluster.simulated_cloud import DictRows, DictStore, History, clear

JUMPS = tuple(sign * size for sign in (-1, 1) for size in (30.0, 59.0, 3600.0, 40 * 86400.0))
HEADS = st.integers(0, 1)
PRICES = (0.03, 0.0638, 0.2)


def launch(history: History, chance: random.Random, head: int) -> None:
    """A listing, a wish, and one of the things that can happen to a granted one."""
    if chance.random() < 0.9:
        history.observe(head)
    if chance.random() < 0.3:
        history.advance(chance.uniform(0, 90))
    if chance.random() < 0.2:
        history.jump(chance.choice(JUMPS))
    request = history.reserve(head, 50)
    if request is None:
        return
    fate = chance.random()
    if fate < 0.05:  # crash before the insert
        history.restart()
    elif fate < 0.1:  # the cloud refuses
        history.heads[head].release(request.name, "no capacity")
    else:
        delay = chance.uniform(0, SEND_SECONDS + 60)
        late = chance.choice((0.0, 30.0, 150.0))
        boot, lag = chance.uniform(0, 300), chance.choice((0.0, 5.0, 120.0))
        history.insert(request, delay, boot, lag, late)
        if fate < 0.25:  # crash before the reply
            history.restart()


def flicker(history: History, chance: random.Random) -> None:
    """Some listings in a row lack a machine; a head wants another one at once."""
    head, hidden = chance.randrange(2), chance.randrange(99)
    for _ in range(3):
        history.observe(head, hidden)
        history.advance(chance.uniform(0, 25))
    history.reserve(head, 50)


def watch(history: History, head: int) -> None:
    """Listings in a row, by which the head sees that a machine is gone."""
    for _ in range(4):
        history.observe(head)
        history.advance(30)


def play(store: Store, seed: int, steps: int = 30) -> History:
    """One random history, in which few machines fill the caps."""
    chance = random.Random(seed)
    clear(store)
    max_run = chance.choice((120, 600, 4 * 3600, 12 * 3600))
    disk = chance.choice((0.0, 0.0, 0.04))
    run = 0.0663 * (max_run + 300) / 3600
    budget = BudgetSettings(
        month_usd=chance.uniform(1, 6) * (run + 50 * disk),
        day_usd=chance.choice((None, chance.uniform(1, 3) * (run + 2 * disk))),
        disk_gb_month_usd=disk,
    )
    history = History(store, budget, max_run)
    kinds: dict[Callable[[], None], int] = {
        lambda: launch(history, chance, chance.randrange(2)): 40,
        lambda: history.advance(chance.choice((5.0, 70.0, 900.0, 30000.0))): 8,
        lambda: history.advance(max_run * chance.uniform(0.1, 1.5)): 8,
        lambda: history.to_the_end(chance.random() < 0.5, chance.uniform(0, 200)): 3,
        lambda: history.end(chance.randrange(99), chance.uniform(0, 120), chance.random() < 0.4): 6,
        lambda: history.jump(chance.choice(JUMPS)): 6,
        history.restart: 4,
        lambda: history.change_price(chance.choice(PRICES)): 2,
        lambda: flicker(history, chance): 4,
        lambda: watch(history, chance.randrange(2)): 4,
        lambda: history.reap(chance.randrange(2)): 4,
        lambda: history.send(chance.choice((10**4, 10**6))): 1,
    }
    for step in chance.choices(list(kinds), list(kinds.values()), k=steps):
        step()
    return history


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        store.migrate()
        yield store


def check(store: Store, seeds: range) -> None:
    granted = refused = 0
    for seed in seeds:
        history = play(store, seed)
        granted, refused = granted + history.granted, refused + history.refused
        assert history.breaches() == [], f"seed {seed}"
    # histories in which nothing is launched, or nothing is refused, would prove nothing
    assert granted > 2 * len(seeds)
    assert refused > 2 * len(seeds)


def test_no_bill_passes_a_cap(store: Store) -> None:
    check(store, range(25))


@pytest.mark.parametrize(
    "count",
    [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_no_bill_passes_a_cap_in_many_histories(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.money.ledger.rows", DictRows)
    check(cast(Store, DictStore()), range(count))


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
