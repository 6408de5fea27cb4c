"""Crashes of the head in every step of a launch, and a storm of the Compute API.

    python -m benchmarks.cluster_faults [--storm 60]

The head is a real process, killed with SIGKILL; the cloud is the fake one of `cluster.testing`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from cluster.testing.crashes import STEPS, TICKS, Aftermath, crash
from cluster.testing.storms import WANTED, StormReport, storm

LONGEST_BLOCK_SECONDS = 10.0


def crashes() -> dict[str, Aftermath]:
    """What is left of each step, two rounds of a new head later."""
    return {step: _in_a_folder(step) for step in STEPS}


def _in_a_folder(step: str) -> Aftermath:
    with tempfile.TemporaryDirectory(prefix="ironcliw-crash-") as folder:
        return crash(step, Path(folder))


def api_storm(seconds: float = 60.0) -> StormReport:
    """A storm in real time."""
    with tempfile.TemporaryDirectory(prefix="ironcliw-storm-") as folder:
        return storm(Path(folder), seconds)


def is_well(found: Aftermath) -> bool:
    """One machine, ordered once, known to all, and no money held for what never came."""
    counts = len(found.machines), found.inserts, len(found.orphans), len(found.held_later)
    return counts == (1, 1, 0, 0)


def main() -> int:
    """Print what was found; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description="Crashes of the head, and a storm of the API.")
    parser.add_argument("--storm", type=float, default=60.0, help="seconds of 503")
    given = parser.parse_args()
    missed = False
    for step, found in crashes().items():
        missed = missed or not is_well(found)
        print(
            f"killed {step}: after {TICKS} rounds {len(found.machines)} machine, "
            f"{len(found.orphans)} orphans, {found.inserts} orders, "
            f"{len(found.promised)} promises open and {len(found.held_later)} later"
        )
    report = api_storm(given.storm)
    missed = missed or report.longest_block_seconds > LONGEST_BLOCK_SECONDS
    missed = missed or (report.lost, report.machines) != (0, WANTED)
    print(
        f"storm of {given.storm:g} s: a listing took {report.longest_block_seconds:.1f} s at the "
        f"most, {report.failed_rounds} rounds had none, {report.lost} machines lost, "
        f"{report.machines} of {WANTED} there in the end"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
