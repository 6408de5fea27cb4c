"""Theme `train`, adapters where they are served, without models."""

from __future__ import annotations

import pytest

from benchmarks.adapter_serving import build_rows


def test_each_number_of_adapters_has_a_goal_of_its_own() -> None:
    rates = {0: [100.0, 200.0, 100.0], 1: [91.0] * 3, 4: [74.0] * 3, 16: [61.0] * 3}
    rows = build_rows(rates, [9.0, 12.0, 9.5])
    assert [row.ratio for row in rows[:3]] == pytest.approx([0.91, 0.74, 0.61])
    assert [row.met for row in rows] == [True, False, True, True]
