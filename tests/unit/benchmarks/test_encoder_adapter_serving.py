"""Theme `train`, adapters of an embedding model where they are served, without models."""

from __future__ import annotations

import pytest

from benchmarks.encoder_adapter_serving import build_rows


def test_each_number_of_adapters_has_a_goal_of_its_own() -> None:
    rows = build_rows({0: [100.0, 300.0, 100.0], 1: [89.0] * 3, 4: [76.0] * 3, 16: [59.0] * 3})
    assert [row.ratio for row in rows] == pytest.approx([0.89, 0.76, 0.59])
    assert [row.met for row in rows] == [False, True, False]
    assert [row.name.rpartition("under ")[2] for row in rows] == [
        "1 adapter",
        "4 adapters",
        "16 adapters",
    ]
