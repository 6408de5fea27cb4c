"""A head that dies in the middle of a launch loses nothing and doubles nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.testing.clocks import ManualClock
from cluster.testing.crashes import STEPS, crash
from cluster.testing.storms import WANTED, storm

UNSENT = STEPS[:3]


@pytest.mark.parametrize("step", STEPS)
def test_a_new_head_has_one_machine_and_no_orphan(step: str, tmp_path: Path) -> None:
    found = crash(step, tmp_path)
    assert len(found.machines) == 1
    assert found.orphans == []
    # nothing is ordered twice, and nothing that was ordered is forgotten
    assert found.inserts == 1
    was_promised = step in UNSENT[1:]
    assert len(found.promised) == int(was_promised)
    assert found.held_later == []
    assert 0 < found.one_machine_usd <= found.committed_usd
    # an order that never left costs what a machine of those minutes could have cost, at the most
    assert found.committed_usd <= found.one_machine_usd * (1.1 if was_promised else 1.0001)


def test_a_storm_blocks_nobody_for_long_and_loses_and_doubles_nothing(tmp_path: Path) -> None:
    clock = ManualClock(1_800_000_000.0)
    found = storm(tmp_path, 60.0, clock, clock.sleep)
    assert found.failed_rounds >= 4
    assert found.longest_block_seconds <= 10
    assert (found.lost, found.machines) == (0, WANTED)
