"""The protocol with a contestant's process, and the rows made of its figures."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from benchmarks.child import Child
from benchmarks.harness import BenchmarkError, Figure, NotRun, Samples
from benchmarks.themes.engines import (
    BF16,
    BUILDERS,
    ENGINE,
    FP32,
    INT8,
    LOOP,
    OURS,
    build_rows,
    min_cosine,
)
from ironcliw.settings import process_environment

CONTESTANTS = """
    import os, time
    import numpy as np

    def lengths(model, threads):
        print("noise on standard output")
        os.write(1, b"noise below Python\\n")
        return lambda texts: np.array([[len(text), threads] for text in texts])

    def dies(model, threads):
        return lambda texts: os._exit(3)

    def stuck(model, threads):
        return lambda texts: time.sleep(600)

    def absent(model, threads):
        import no_such_package_anywhere
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a child that can import the contestants above."""
    (tmp_path / "contestants.py").write_text(textwrap.dedent(CONTESTANTS))
    return process_environment(PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))


def child(name: str, folder: Path, environment: dict[str, str]) -> Child:
    return Child(f"contestants:{name}", folder, 2, environment, folder / "child.log")


def test_a_contestant_is_timed_and_gives_vectors(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with child("lengths", tmp_path, environment) as contestant:
        assert contestant.wait_ready(60) is None
        contestant.call(op="texts", name="short", texts=["a", "bcd"])
        assert contestant.call(op="time", name="short")["seconds"] >= 0
        contestant.call(op="vectors", name="short", path=str(tmp_path / "v.npy"))
    assert np.load(tmp_path / "v.npy").tolist() == [[1, 2], [3, 2]]


def test_a_contestant_that_is_not_installed_is_not_run(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with child("absent", tmp_path, environment) as contestant:
        reason = contestant.wait_ready(60)
    assert isinstance(reason, NotRun)
    assert "no_such_package_anywhere is not installed" in reason.reason


@pytest.mark.parametrize(("name", "seconds"), [("dies", 60.0), ("stuck", 0.2)])
def test_a_contestant_that_dies_or_hangs_is_an_error(
    tmp_path: Path, environment: dict[str, str], name: str, seconds: float
) -> None:
    with child(name, tmp_path, environment) as contestant:
        contestant.wait_ready(60)
        contestant.call(op="texts", name="short", texts=["a"])
        with pytest.raises(BenchmarkError, match=f"contestants:{name} ended or gave no answer"):
            contestant.call(seconds, op="time", name="short")


def test_min_cosine_is_the_worst_row() -> None:
    left = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    right = np.array([[2.0, 0.0], [1.0, 1.0]], dtype=np.float32)
    assert min_cosine(left, right) == pytest.approx(2**-0.5)


def rates(ours: float) -> dict[str, Figure]:
    figures: dict[str, Figure] = {name: Samples.of([100.0]) for name in BUILDERS}
    return {**figures, OURS: Samples.of([ours])}


@pytest.mark.parametrize(
    ("cap", "ours", "met"),
    [(None, 459.0, False), (None, 460.0, True), ("avx2", 199.0, False), ("avx2", 200.0, True)],
)
def test_the_goal_against_fp32_depends_on_the_cap(cap: str | None, ours: float, met: bool) -> None:
    rows = build_rows("short", rates(ours), {OURS: 1.0, BF16: 0.998}, 10.0, cap)
    by_peer = {name: row for row in rows for name in row.peers if "against" in row.name}
    assert by_peer[FP32].met is met
    assert by_peer[LOOP].met is None
    assert (by_peer[BF16].goal is None) is (cap is not None)


def test_the_cosine_goal_is_on_ours_alone() -> None:
    def cosine_met(cosines: dict[str, float]) -> bool | None:
        rows = build_rows("short", rates(500.0), cosines, 10.0, None)
        return next(row.met for row in rows if "min cosine to" in row.name)

    assert cosine_met({OURS: 0.9995, BF16: 0.9}) is True
    assert cosine_met({OURS: 0.9994}) is False
    assert cosine_met({}) is False


@pytest.mark.parametrize(("engine", "met"), [(64.0, False), (66.0, True)])
def test_the_ceiling_goal_is_on_the_engine_alone(engine: float, met: bool) -> None:
    figures = {**rates(1.0), ENGINE: Samples.of([engine])}
    rows = build_rows("short", figures, {}, 10.0, None)
    ceilings = {row.name.endswith("(tokens given)"): row.met for row in rows if "GEMM" in row.name}
    assert ceilings == {True: met, False: None}
    capped = build_rows("short", figures, {}, 10.0, "avx2")
    assert all(row.goal is None for row in capped if "GEMM" in row.name)


def test_int8_has_a_cosine_goal_of_its_own() -> None:
    def met(cosine: float) -> bool | None:
        rows = build_rows("mixed", rates(500.0), {INT8: cosine}, 10.0, None)
        return next(row.met for row in rows if row.name == "mixed min cosine of int8 to fp32")

    assert met(0.99) is True
    assert met(0.9899) is False


def test_tokens_are_texts_times_their_length() -> None:
    rows = build_rows("short", rates(300.0), {}, 12.5, None)
    tokens = next(row for row in rows if row.name == "short real tokens")
    assert isinstance(tokens.ours, Samples)
    assert tokens.ours.median == 300 * 12.5
