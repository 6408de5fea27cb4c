"""The budget over many random histories on the real store: does a bill ever pass its cap?

    python -m benchmarks.cluster_budget [--histories 10000] [--processes 2]

A simulated cloud keeps its own books, in fractions of a dollar and by its own clock; the ledger in
its SQLite file decides what may be launched. See `cluster.testing.money_histories` for what happens
in a history. The same histories are then played with mistakes made on purpose, to show that the
histories would find one. What is not shown: that Google bills as the simulated cloud does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.testing.money_histories import BUGS, bug, play
from cluster.testing.simulated_cloud import MAX_WORKERS, clear
from ironcliw.store import Store

HISTORIES = 10_000
BATCH = 50
"""Histories of one task: small enough that the processes end together."""
LONGEST_HUNT = 2000
"""A mistake that so many histories do not find is one that they cannot find."""
_STORE = "budget.db"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of many histories.

    Attributes:
        histories: How many were played.
        granted: Machines that were promised money.
        refused: Machines that were not.
        beyond: Histories with more machines at once than `max_workers`, one of them draining.
        breaches: Windows in which a bill passed its cap.
    """

    histories: int = 0
    granted: int = 0
    refused: int = 0
    beyond: int = 0
    breaches: tuple[str, ...] = ()

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.histories + other.histories,
            self.granted + other.granted,
            self.refused + other.refused,
            self.beyond + other.beyond,
            self.breaches + other.breaches,
        )


def play_batch(seeds: Sequence[int]) -> Outcome:
    """Some histories one after the other, on an empty store of their own."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="ironcliw-budget-", dir=_memory()) as folder:
        with Store(f"sqlite:///{Path(folder) / _STORE}") as store:
            store.migrate({"cluster": "cluster.migrations"})
            for seed in seeds:
                outcome += _play(store, seed)
    return outcome


def hunt(name: str) -> int | None:
    """After how many histories the mistake of that name breaks a cap; None: not found."""
    with tempfile.TemporaryDirectory(prefix="ironcliw-budget-", dir=_memory()) as folder:
        with Store(f"sqlite:///{Path(folder) / _STORE}") as store:
            store.migrate({"cluster": "cluster.migrations"})
            with bug(name):
                for seed in range(LONGEST_HUNT):
                    if _play(store, seed).breaches:
                        return seed + 1
    return None


def run(histories: int = HISTORIES, processes: int = 1) -> Outcome:
    """So many histories, in so many processes."""
    batches = list(_batches(histories))
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(processes, len(batches))) as pool:
        return sum(pool.imap_unordered(play_batch, batches), Outcome())


def _play(store: Store, seed: int) -> Outcome:
    clear(store)
    history = play(store, seed)
    breaches = tuple(f"seed {seed}: {one}" for one in history.breaches())
    return Outcome(1, history.granted, history.refused, int(history.beyond), breaches)


def _batches(histories: int) -> Iterator[Sequence[int]]:
    for start in range(0, histories, BATCH):
        yield range(start, min(start + BATCH, histories))


def _memory() -> str | None:
    """A folder in memory, where the system has one: a disk would only slow it down."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    """Print what was found; 1 where a cap was passed, or a mistake was not found."""
    parser = argparse.ArgumentParser(description="Random histories of the budget.")
    parser.add_argument("--histories", type=int, default=HISTORIES)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    began = time.monotonic()
    outcome = run(given.histories, given.processes)
    print(
        f"{outcome.histories} histories in {time.monotonic() - began:.0f} s: "
        f"{outcome.granted} machines granted, {outcome.refused} refused, {outcome.beyond} "
        f"histories with more than {MAX_WORKERS} machines at once and one draining; "
        f"{len(outcome.breaches)} breaches"
    )
    for line in outcome.breaches[:10]:
        print(f"  {line}")
    missed = False
    for name in BUGS:
        found = hunt(name)
        missed = missed or found is None
        when = "NOT FOUND" if found is None else f"found by history {found}"
        print(f"with the mistake {name!r}: {when}")
    return 1 if outcome.breaches or missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
