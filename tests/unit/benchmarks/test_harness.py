"""Statistics, goals, rows and interleaving."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import (
    Figure,
    Goal,
    NotRun,
    Options,
    Row,
    Samples,
    ThemeResult,
    interleave,
    percentile,
)

FINITE = st.floats(min_value=-1e9, max_value=1e9)


@given(st.lists(FINITE, min_size=1))
def test_median_lies_in_the_range(values: list[float]) -> None:
    samples = Samples.of(values)
    assert samples.low <= samples.median <= samples.high


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        Samples.of([])


@given(st.lists(FINITE, min_size=1), st.floats(min_value=0.001, max_value=1))
def test_percentile_is_the_smallest_value_that_covers_the_share(
    values: list[float], share: float
) -> None:
    value = percentile(values, share)
    covered = sum(other <= value for other in values)
    below = sum(other < value for other in values)
    assert covered >= share * len(values) > below


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="of 0 values"):
        percentile([], 0.5)


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        (Goal(3.0, relative=True), ">= 3x"),
        (Goal(1 / 5, at_most=True, relative=True), "<= 1/5"),
        (Goal(1.2, relative=True), ">= 1.2x"),
        (Goal(2500.0), ">= 2,500"),
        (Goal(0.5, at_most=True), "<= 0.5"),
        (Goal(0.9, relative=True), ">= 0.9x"),
    ],
)
def test_goals_read_as_the_table_writes_them(goal: Goal, text: str) -> None:
    assert str(goal) == text


@pytest.mark.parametrize(
    ("ours", "met"), [(299.0, False), (300.0, True), (301.0, True)], ids=["below", "at", "above"]
)
def test_a_relative_goal_is_on_the_ratio_to_the_first_peer(ours: float, met: bool) -> None:
    peers = {"first": Samples.of([100.0]), "second": Samples.of([1.0])}
    row = Row("t", "n", "u", Samples.of([ours]), peers, Goal(3.0, relative=True))
    assert row.ratio == ours / 100
    assert row.met is met


def test_an_absolute_goal_needs_no_peer() -> None:
    slow = Row("t", "n", "ms", Samples.of([0.7]), goal=Goal(0.6, at_most=True))
    assert slow.met is False
    assert dataclasses.replace(slow, ours=Samples.of([0.6])).met is True


@pytest.mark.parametrize(
    "row",
    [
        Row("t", "n", "u", Samples.of([9.0]), {"p": NotRun("absent")}, Goal(1.0, relative=True)),
        Row("t", "n", "u", NotRun("broken"), {"p": Samples.of([1.0])}, Goal(1.0)),
        Row("t", "n", "u", Samples.of([9.0]), {"p": Samples.of([0.0])}, Goal(1.0, relative=True)),
    ],
    ids=["no peer", "no figure of ours", "peer is zero"],
)
def test_what_could_not_be_measured_is_not_met(row: Row) -> None:
    assert row.ratio is None
    assert row.met is False
    assert ThemeResult([row]).missed == [row]


def test_a_row_without_goal_is_never_missed() -> None:
    row = Row("t", "n", "u", NotRun("absent"))
    assert row.met is None
    assert ThemeResult([row]).missed == []


def test_json_has_the_agreed_keys_and_says_why_a_peer_is_missing() -> None:
    peers: dict[str, Figure] = {"a": Samples.of([1.0, 3.0]), "b": NotRun("no wheel")}
    row = Row("engines", "short", "texts/s", Samples.of([4.0]), peers, Goal(2.0, relative=True))
    assert row.as_json() == {
        "theme": "engines",
        "name": "short",
        "unit": "texts/s",
        "ours": 4.0,
        "peers": {"a": 2.0, "b": "not run: no wheel"},
        "ratio": 2.0,
        "goal": ">= 2x",
        "met": True,
    }


def test_contestants_alternate_and_the_order_reverses() -> None:
    calls: list[str] = []

    def contestant(name: str) -> int:
        calls.append(name)
        return len(calls)

    results = interleave({name: functools.partial(contestant, name) for name in "abc"}, 3)
    assert "".join(calls) == "abccbaabc"
    assert results == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_the_cap_reaches_the_environment_of_a_contestant() -> None:
    options = Options(data=Path(), model=Path(), cap="avx2", threads=2)
    environment = options.child_environment(EXTRA="1")
    assert environment["ATEN_CPU_CAPABILITY"] == "avx2"
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert environment["MKL_ENABLE_INSTRUCTIONS"] == "AVX2"
    assert environment["IRONCLIW_CPU_CAPABILITY"] == "avx2"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["EXTRA"] == "1"
    uncapped = dataclasses.replace(options, cap=None).child_environment()
    assert "ATEN_CPU_CAPABILITY" not in uncapped
