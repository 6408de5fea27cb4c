"""How fast it decides and simulates, in a process of its own that must not import torch.

    python -m rl.report.speed [--policy FILE]

Decisions are timed twice: the choice alone, in simulated days, and all of it in the running system
(the view, the guardrails, the choice, the record), where 30 steps wait, three machines work and
nothing is remembered from the decision before. The latter is processor time of the thread.
Prints JSON. Figures of time differ from run to run and from machine to machine, so a report keeps
them apart from what days come to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.situation import Placement
from ironcliw.errors import DataError
from rl.evaluate import BASE, baselines
from rl.parameters import load_parameters, load_tuned
from rl.policy import NumpyPolicy, policy_path
from rl.policy_file import INPUTS, load_policy, save_policy
from rl.promotion import Standing
from rl.regime import load_regime
from rl.report.contestants import TUNED_SUFFIX, learned_policy
from rl.report.crowd import OTHERS, crowded
from rl.report.goals import Verdict
from rl.report.plan import REGIMES
from rl.simulator import Policy, Simulation, simulate
from rl.workload import make_day

_DAYS = 6
_WARM_UP = 50  # decisions
_LIVE = 2000
_EXPLORATION = 0.03  # as `routing.exploration` has it


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one policy.

    Attributes:
        p50: Seconds of a decision, from its view to the action, median.
        p99: 99th percentile.
        worst: The longest.
        decisions: That were timed.
        live_p50: Seconds of a decision in the running system, median.
        live_p99: 99th percentile.
        simulated: Decisions a second of the simulator, one core, with the expected-cost policy.
        has_torch: Whether torch had been imported when all was done.
    """

    p50: float
    p99: float
    worst: float
    decisions: int
    live_p50: float
    live_p99: float
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
    live = f"{1e3 * speed.live_p99:.3f} ms (median {1e3 * speed.live_p50:.3f})"
    found = [
        Verdict("decision p99, no torch imported", "<= 1 ms", figure, is_fast),
        Verdict(
            f"the same in the running system, {OTHERS} steps wait, view and record included",
            "<= 1 ms",
            live,
            speed.live_p99 <= 1e-3 and not speed.has_torch,
        ),
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


def live_seconds(
    path: Path | None, count: int = _LIVE, tell: Callable[[Placement], object] = lambda placed: None
) -> list[float]:
    """Processor time of decisions of the running system's router, in a crowd.

    Args:
        path: Of a learned or a tuned policy; the tuned greedy one without.
        count: Of decisions; some before them, which load what they use, are not timed.
        tell: Told of each decision.
    """
    with tempfile.TemporaryDirectory(prefix="ironcliw-speed-") as name:
        router = _router(path, Path(name))
        seconds = []
        for number in range(count + _WARM_UP):
            situation = crowded(number)
            begun = time.thread_time()
            placed = router.place(situation)
            seconds.append(time.thread_time() - begun)
            tell(placed)
    return seconds[_WARM_UP:]


def _router(path: Path | None, folder: Path) -> NumpyPolicy:
    """The router with that policy deciding everywhere, with no view unlike its training."""
    if path is None or path.suffix == TUNED_SUFFIX:
        tuned = load_parameters() if path is None else load_tuned(path)
        return NumpyPolicy(folder, exploration=_EXPLORATION, parameters=tuned, idle_seconds=900.0)
    policy = load_policy(path)
    far = np.full(INPUTS, 1e9, dtype=np.float32)
    guard = replace(policy.guard, low=-far, high=far, limit=1e30)
    draft = folder / "draft.npz"
    saved = save_policy(draft, replace(policy, guard=guard))
    place = policy_path(folder, saved.digest)
    place.parent.mkdir()
    draft.replace(place)
    router = NumpyPolicy(
        folder, exploration=_EXPLORATION, parameters=policy.parameters, idle_seconds=900.0
    )
    router.stand(Standing("default", policy=saved.digest))
    return router


def _measure(policy: Policy, path: Path | None) -> dict[str, Any]:
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
    live_p50, live_p99 = np.percentile(live_seconds(path), [50, 99])
    return {
        "p50": float(p50),
        "p99": float(p99),
        "worst": float(timed.max()),
        "decisions": len(timed),
        "live_p50": float(live_p50),
        "live_p99": float(live_p99),
        "simulated": count / spent,
        "has_torch": "torch" in sys.modules,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Times a policy's decisions and the simulator.")
    parser.add_argument("--policy", type=Path, help="a learned one; the tuned greedy without it")
    path = parser.parse_args().policy
    found = _measure(learned_policy(path) if path else baselines()[BASE](), path)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
