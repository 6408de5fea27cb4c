"""Rows of theme `cluster` for what is counted instead of timed: crashes, a storm, the budget."""

from __future__ import annotations

import os

from benchmarks.cluster_budget import HISTORIES, run
from benchmarks.cluster_faults import (
    LONGEST_BLOCK_SECONDS,
    api_storm,
    cluster_storm,
    crashes,
    is_well,
)
from benchmarks.cluster_scaling import THEME
from benchmarks.harness import Goal, Options, Row, Samples
from cluster.testing.crashes import TICKS
from cluster.testing.storms import WANTED

_NONE = Goal(0.0, at_most=True)
_QUICK_HISTORIES = 1000


def fault_rows(options: Options) -> list[Row]:
    """A head killed at each step of a launch, and 503 for a minute."""
    found = crashes()
    orphans = sum(len(one.orphans) for one in found.values())
    unwell = sum(not is_well(one) for one in found.values())
    storm, real = api_storm(), cluster_storm()
    steps = f"{len(found)} steps, {TICKS} rounds of the new head"
    return [
        Row(
            THEME,
            "orphans after a killed head",
            "machines",
            Samples.of([orphans]),
            {},
            _NONE,
            steps,
        ),
        Row(
            THEME,
            "steps after which not just one machine was there, ordered once",
            "steps",
            _of(unwell),
            goal=_NONE,
        ),
        Row(
            THEME,
            "503 for 60 s: longest time that a listing of the provider took",
            "s",
            Samples.of([storm.longest_block_seconds]),
            goal=Goal(LONGEST_BLOCK_SECONDS, at_most=True),
        ),
        Row(
            THEME,
            "503 for 60 s, a second machine wanted: lost, doubled or missing",
            "machines",
            Samples.of([storm.lost + abs(storm.machines - WANTED)]),
            goal=_NONE,
        ),
        Row(
            THEME,
            "503 for 60 s: longest time from one round of Ray's autoscaler to the end of the next",
            "s",
            Samples.of([real.longest_pause_seconds]),
            goal=Goal(LONGEST_BLOCK_SECONDS, at_most=True),
        ),
        Row(
            THEME,
            "503 for 60 s, a machine at work: lost or doubled",
            "machines",
            _of(real.lost_or_doubled),
            goal=_NONE,
        ),
    ]


def budget_rows(options: Options) -> list[Row]:
    """Random histories with crashes, and with nodes that drain above `max_workers`."""
    histories = _QUICK_HISTORIES if options.quick else HISTORIES
    outcome = run(histories, os.cpu_count() or 1)
    note = f"{histories:,} histories, {outcome.granted:,} machines, {outcome.refused:,} refused"
    breaches = _of(len(outcome.breaches))
    return [Row(THEME, "bills beyond their cap", "breaches", breaches, {}, _NONE, note)]


def _of(count: int) -> Samples:
    return Samples.of([count])
