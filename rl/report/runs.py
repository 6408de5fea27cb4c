"""Runs units of work on several processes and keeps each result, so that a report can go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from ironcliw.errors import DataError
from rl.report.contestants import CLAIRVOYANT
from rl.report.plan import Unit
from rl.simulator import simulate
from rl.statistics import Figures
from rl.workload import make_day

Columns = dict[str, Figures]
Report = Callable[[str], None]
_LEARNED_TIMES = 3.0  # a learned policy's decision beside the expected-cost policy's, about
_EVERY = 15.0  # seconds between two lines about the progress


class Store:
    """Results of units in a folder, a file each.

    Args:
        folder: Made where it is absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, unit: Unit) -> list[dict[str, float]] | None:
        """Of each day of a unit; None where it was not run.

        Raises:
            DataError: the file is damaged.
        """
        path = self._folder / f"{unit.key}.json"
        try:
            page = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}); delete it") from error
        rows: list[dict[str, float]] = page["rows"]
        return rows

    def write(self, unit: Unit, rows: Sequence[Mapping[str, float]]) -> None:
        """Keep a result; a file is there whole or not at all."""
        path = self._folder / f"{unit.key}.json"
        about = {"regime": unit.regime.name, "who": unit.contestant.name, "first": unit.first}
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({**about, "rows": rows}) + "\n", encoding="utf-8")
        part.replace(path)


def run_unit(unit: Unit, data: Path | None) -> list[dict[str, float]]:
    """What each day of a unit comes to, in order."""
    numbers = range(unit.first, unit.first + unit.count)
    days = (make_day(unit.regime, unit.seed, unit.split, number, data=data) for number in numbers)
    return [unit.contestant.run(day) for day in days]


def run_all(
    units: Sequence[Unit], store: Store, data: Path | None, processes: int, report: Report
) -> None:
    """Run what is not in the store yet.

    Args:
        units: All that is needed.
        store: Of their results.
        data: The data folder.
        processes: That work at once; with 1 it is done in this one.
        report: Told of an estimate, then of the progress, in words.
    """
    unique = {unit.key: unit for unit in units}.values()  # policies may decide alike
    missing = [unit for unit in unique if store.read(unit) is None]
    if not missing:
        return
    report(
        f"{len(missing)} of {len(unique)} parts are to be run, about "
        f"{_told(estimate(missing, data) / processes)} on {processes} processes"
    )
    begun = told = time.monotonic()
    for done, (unit, rows) in enumerate(_results(missing, data, processes), 1):
        store.write(unit, rows)
        now = time.monotonic()
        if now - told > _EVERY:
            told = now
            left = (now - begun) / done * (len(missing) - done)
            report(f"{done} of {len(missing)} parts, about {_told(left)} left")


def _results(
    units: Sequence[Unit], data: Path | None, processes: int
) -> Iterator[tuple[Unit, list[dict[str, float]]]]:
    if processes == 1:
        for unit in units:
            yield unit, run_unit(unit, data)
        return
    # spawned, not forked: the process that reports may have threads (matplotlib, BLAS)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures: dict[Future[list[dict[str, float]]], Unit] = {
            pool.submit(run_unit, unit, data): unit for unit in units
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def estimate(units: Sequence[Unit], data: Path | None) -> float:
    """Seconds of one process that units take, from a few days of each regime."""
    seconds: dict[str, float] = {}
    total = 0.0
    for unit in units:
        name, one = unit.regime.name, unit.contestant
        if name not in seconds:
            seconds[name] = _seconds_a_day(unit, data)
        times = {CLAIRVOYANT: float(one.evaluations), "learned": _LEARNED_TIMES}
        total += unit.count * seconds[name] * times.get(one.kind, 1.0)
    return total


def _seconds_a_day(unit: Unit, data: Path | None) -> float:
    """Of the expected-cost policy; the best of two, without what the first import costs."""
    from rl.evaluate import BASE, baselines

    maker = baselines(unit.contestant.parameters)[BASE]
    days = [make_day(unit.regime, unit.seed, unit.split, number, data=data) for number in range(3)]
    found = []
    for _ in range(2):
        begun = time.perf_counter()
        for day in days:
            simulate(day, maker())
        found.append((time.perf_counter() - begun) / len(days))
    return min(found)


def columns_of(units: Sequence[Unit], store: Store) -> Columns:
    """Figures of days in order, by name, from units of one contestant in one regime.

    Raises:
        DataError: one of them was not run.
    """
    rows: list[dict[str, float]] = []
    for unit in sorted(units, key=lambda unit: unit.first):
        found = store.read(unit)
        if found is None:
            raise DataError(
                f"{unit.contestant.name} was not run on days {unit.first} and on of "
                f"{unit.regime.name}; run the report again"
            )
        rows += found
    return {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0]}


def _told(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
