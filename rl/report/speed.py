"""How fast it decides and simulates, in a process of its own that must not import torch.

    python -m rl.report.speed [--policy FILE]

Prints JSON. Figures of time differ from run to run and from machine to machine, so a report keeps
them apart from what days come to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ironcliw.errors import DataError
from rl.evaluate import BASE, baselines
from rl.regime import load_regime
from rl.report.contestants import learned_policy
from rl.report.goals import Verdict
from rl.report.plan import REGIMES
from rl.simulator import Policy, Simulation, simulate
from rl.workload import make_day

_DAYS = 6
_WARM_UP = 50  # decisions


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one policy.

    Attributes:
        p50: Seconds of a decision, from its view to the action, median.
        p99: 99th percentile.
        worst: The longest.
        decisions: That were timed.
        simulated: Decisions a second of the simulator, one core, with the expected-cost policy.
        has_torch: Whether torch had been imported when all was done.
    """

    p50: float
    p99: float
    worst: float
    decisions: int
    simulated: float
    has_torch: bool


def measured(policy: Path | None) -> Speed:
    """In a process of its own.

    Raises:
        DataError: that process failed.
    """
    words = [sys.executable, "-m", "rl.report.speed"]
    words += ["--policy", str(policy.resolve())] if policy else []
    done = subprocess.run(words, capture_output=True, text=True, cwd=REGIMES.parents[1])
    if done.returncode != 0:
        raise DataError(f"the speed could not be measured: {done.stderr.strip()[-500:]}")
    return Speed(**json.loads(done.stdout))


def verdicts(speed: Speed, training_minutes: Sequence[float]) -> list[Verdict]:
    """The goals of time.

    Args:
        speed: Of our policy.
        training_minutes: Of each seed on one core; none where no learned policy was given.
    """
    figure = f"{1e3 * speed.p99:.3f} ms (median {1e3 * speed.p50:.3f}, {speed.decisions:,})"
    figure += ", torch imported" if speed.has_torch else ""
    is_fast = speed.p99 <= 1e-3 and not speed.has_torch
    found = [
        Verdict("decision p99, no torch imported", "<= 1 ms", figure, is_fast),
        Verdict(
            "simulator, decisions a second on one core",
            ">= 5,000",
            f"{speed.simulated:,.0f}",
            speed.simulated >= 5000,
        ),
    ]
    slowest = max(training_minutes, default=0.0)
    told = f"{slowest:.1f} min, the slowest of {len(training_minutes)}" if training_minutes else ""
    met = slowest <= 60 if training_minutes else None
    return [*found, Verdict("training of a seed on one core", "<= 60 min", told, met)]


def _measure(policy: Policy) -> dict[str, Any]:
    regime = load_regime(REGIMES / "busy.toml")
    days = [make_day(regime, 0, "validation", number) for number in range(_DAYS)]
    seconds: list[float] = []
    for day in days:
        simulation = Simulation(day, order=policy.order)
        while (decision := simulation.next_decision()) is not None:
            mask = decision.mask
            begun = time.perf_counter()
            action = policy.choose(decision.view, mask)
            seconds.append(time.perf_counter() - begun)
            simulation.take(action, policy.name)
    maker, count = baselines()[BASE], 0
    begun = time.perf_counter()
    for day in days:
        count += simulate(day, maker()).decisions
    spent = time.perf_counter() - begun
    timed = np.array(seconds[_WARM_UP:])
    p50, p99 = np.percentile(timed, [50, 99])
    return {
        "p50": float(p50),
        "p99": float(p99),
        "worst": float(timed.max()),
        "decisions": len(timed),
        "simulated": count / spent,
        "has_torch": "torch" in sys.modules,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Times a policy's decisions and the simulator.")
    parser.add_argument("--policy", type=Path, help="a learned one; the tuned greedy without it")
    path = parser.parse_args().policy
    found = _measure(learned_policy(path) if path else baselines()[BASE]())
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
