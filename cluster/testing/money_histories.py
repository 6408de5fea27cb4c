"""Random histories of a cluster's money: what a cloud, two heads and bad luck can do in any order.

The head crashes, its clock jumps, listings are late or lack a machine, inserts arrive late or
never, machines outlive their `max_run`, stop themselves and keep their disks, prices change, and
two heads reserve in turns. In the end the head is gone for good, and the bill runs on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest import mock

from cluster.money.budget import Admission, Caps, Commitment, admit
from cluster.money.intervals import SEND_SECONDS, Interval
from cluster.testing.simulated_cloud import MAX_WORKERS, History
from ironcliw.setting_sections import BudgetSettings
from ironcliw.store import Store

JUMPS = tuple(sign * size for sign in (-1, 1) for size in (30.0, 59.0, 3600.0, 40 * 86400.0))
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
    """One random history, in which few machines fill the caps.

    Args:
        store: Without machines.
        seed: Says which one.
        steps: How much happens.
    """
    chance = random.Random(seed)
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


_commitment = Interval.commitment


def _without_reservations(row: Interval) -> Commitment:
    found = _commitment(row)
    return found if row.created_at is not None else replace(found, hourly=0, kept_hourly=0)


def _without_disks(row: Interval) -> Commitment:
    return replace(_commitment(row), kept_hourly=0)


def _by_max_workers(
    now: datetime, caps: Caps, spent: Any, live: Sequence[Commitment], *others: Any
) -> Admission:
    return admit(now, caps, spent, live[:MAX_WORKERS], *others)


BUGS: dict[str, tuple[str, Any]] = {
    "promised machines are not counted": (
        "cluster.money.intervals.Interval.commitment",
        _without_reservations,
    ),
    "disks that are left behind are not counted": (
        "cluster.money.intervals.Interval.commitment",
        _without_disks,
    ),
    "there are no more machines than max_workers": ("cluster.money.ledger.admit", _by_max_workers),
    "machines end on time": ("cluster.money.intervals.MARGIN_SECONDS", 0),
}
"""Mistakes that somebody could make, by what they take for granted; each breaks a cap."""


@contextmanager
def bug(name: str) -> Iterator[None]:
    """The ledger with one of `BUGS`, to see that the histories find it."""
    target, wrong = BUGS[name]
    with mock.patch(target, wrong):
        yield
