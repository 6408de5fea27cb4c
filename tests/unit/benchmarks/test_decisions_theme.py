"""Theme `decisions`: what its entailment rows say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import Figure, Options, Samples
from benchmarks.themes import decisions


@pytest.mark.parametrize(("rate", "met"), [(2.4, False), (2.6, True)])
def test_the_goal_is_two_and_a_half_times_the_pipeline(rate: float, met: bool) -> None:
    rates: dict[str, Figure] = dict.fromkeys(decisions.BUILDERS, Samples.of([1.0]))
    rates[decisions.OURS] = Samples.of([rate])
    first, *others = decisions.entailment_rows(rates)
    assert first.met is met
    assert [row.goal for row in others] == [None, None]


@pytest.mark.parametrize(("far", "met"), [(0.009, True), (0.011, False)])
def test_the_label_that_moved_farthest_counts(far: float, met: bool) -> None:
    exact = np.full((2, 3), 0.3)
    ours, peer = exact.copy(), exact.copy()
    ours[1, 2] -= far
    peer[0, 1] += 0.02
    scores = {decisions.OURS: ours, decisions.BF16: peer, decisions.FP32: exact}
    (row,) = decisions.moved_rows(scores)
    assert isinstance(row.ours, Samples)
    assert row.ours.median == pytest.approx(far)
    assert row.ratio == pytest.approx(far / 0.02)
    assert row.met is met


def test_without_the_exact_peer_nothing_is_said() -> None:
    assert decisions.moved_rows({decisions.OURS: np.ones((1, 1))}) == []


@pytest.mark.parametrize("quick", [True, False])
def test_the_remarks_name_all_of_the_layers(quick: bool) -> None:
    options = Options(data=Path(), model=Path(), quick=quick)
    remark = decisions._remarks(options, 1)[1]
    assert "12 + 12 layers" in remark
    assert ("one after the other: 1," if quick else "one after the other: 3,") in remark
