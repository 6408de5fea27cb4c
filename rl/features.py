"""A view as numbers for a network: some of the whole, some of each option.

The network scores options one by one, so that it need not learn what is true of one machine for
each slot anew: `context` is what all options share, `of_option` what they differ in, the
expected-cost policy's own cost first. All are scaled to about 1 and finite. What a policy was
trained with is told by `rl.schema`, whose digest an exported policy carries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rl.guardrails import RESERVE_GB
from rl.view import (
    ACTION_NAMES,
    ACTIONS,
    BUY,
    FIRST_MACHINE,
    FIRST_STOP,
    HOME,
    MACHINES,
    PREWARM,
    WAIT,
    MachineView,
    StepView,
    View,
)
from rl.work import KINDS

HOUR = 3600.0
_KINDS = tuple(KINDS)
CONTEXT = (
    *(f"is_{kind}" for kind in _KINDS),
    "is_about_machines", "memory_mean", "memory_p95", "log_home_seconds", "log_cloud_seconds",
    "duration_sigma", "log_transfer", "is_checkpointable", "is_private", "priority",
    "log_deadline_in", "is_late", "log_after", "log_waited", "spot_losses", "fan_out",
    "home_room", "home_free", "home_cores_wanted", "home_runs", "machines", "machines_booting",
    "day_left", "month_left", "committed", "hazard", "boot", "stocked_out_lately",
    "waiting", "arrivals_half_hour", "large_soon", "hour_sin", "hour_cos",
    "home_weight", "home_soonest", "home_longest", "machines_idle", "machines_work", "least_cost",
)  # fmt: skip
OPTION = (
    *(f"is_{name.replace(' ', '_')}" for name in ACTION_NAMES),
    "is_allowed", "cost_over_least", "log_seconds", "free_after", "load_after", "is_warm",
    "log_busy", "log_idle", "ready_in", "slack",
)  # fmt: skip
SCHEMA = (*CONTEXT, "|", *OPTION)
CLIP = 10.0

Floats = npt.NDArray[np.float32]


def features(view: View, mask: Sequence[bool], costs: Sequence[float]) -> tuple[Floats, Floats]:
    """(context of shape (len(CONTEXT),), options of shape (ACTIONS, len(OPTION))).

    Args:
        view: What is seen.
        mask: What is allowed.
        costs: The expected-cost policy's, USD, infinite where refused.
    """
    least = min((cost for cost in costs if cost < math.inf), default=0.0)
    options = [_of_option(view, one, mask[one], costs[one] - least) for one in range(ACTIONS)]
    context = np.array([*_context(view), 10.0 * least], dtype=np.float32)
    return np.clip(context, -CLIP, CLIP), np.clip(np.array(options, dtype=np.float32), -CLIP, CLIP)


def _log(seconds: float) -> float:
    """0 at a second, 1 at about an hour."""
    return math.log1p(min(max(seconds, 0.0), 1e9)) / 8.0


def _context(view: View) -> list[float]:
    home, money, step = view.home, view.money, view.step
    machines = [one for one in view.machines if one is not None]
    hour = 2.0 * math.pi * view.now / (24.0 * HOUR)
    return [
        *_of_step(step),
        home.room_gb / 16.0,
        home.free_gb / 16.0,
        home.cores_wanted / home.cores,
        len(home.runs) / 4.0,
        len(machines) / MACHINES,
        sum(one.state == "booting" for one in machines) / MACHINES,
        money.day_left,
        money.month_left / 12.0,
        money.committed,
        money.hazard_per_hour,
        money.boot_seconds / 100.0,
        math.exp(-money.stocked_out_seconds / 600.0),
        view.waiting / 8.0,
        view.arrivals_half_hour / 8.0,
        math.exp(-view.large_in / 120.0),
        math.sin(hour),
        math.cos(hour),
        sum(run.priority for run in home.runs) / 4.0,
        _log(min((run.seconds_left for run in home.runs), default=0.0)),
        _log(max((run.seconds_left for run in home.runs), default=0.0)),
        sum(one.state == "ready" and one.busy_seconds <= 0 for one in machines) / MACHINES,
        _log(sum(one.busy_seconds for one in machines)),
    ]


def _of_step(step: StepView | None) -> list[float]:
    if step is None:
        return [0.0] * len(_KINDS) + [1.0] + [0.0] * 15
    return [
        *(float(step.kind == kind) for kind in _KINDS),
        0.0,
        step.memory_mean_gb / 16.0,
        step.memory_p95_gb / 16.0,
        _log(step.home_seconds),
        _log(step.cloud_seconds),
        step.duration_sigma,
        _log(step.transfer_seconds),
        float(step.checkpointable),
        float(step.private),
        step.priority,
        _log(step.deadline_in),
        float(step.deadline_in < 0),
        _log(step.after_seconds),
        _log(step.waited),
        step.spot_losses / 3.0,
        step.fan_out / 4.0,
    ]


def _of_option(view: View, action: int, allowed: bool, over: float) -> list[float]:
    found = [0.0] * len(OPTION)
    found[action] = 1.0
    at = ACTIONS
    found[at] = float(allowed)
    if not allowed:
        return found
    found[at + 1] = 10.0 * over
    step, money, seconds = view.step, view.money, 0.0
    if action == HOME and step is not None:
        home = view.home
        seconds = step.home_seconds + step.cold_home
        found[at + 3] = (home.free_gb - RESERVE_GB - step.memory_p95_gb) / 16.0
        found[at + 4] = (home.cores_wanted + step.cores) / home.cores
        found[at + 5] = float(home.warm == step.kind)
    elif action in (BUY, PREWARM):
        found[at + 8] = money.boot_seconds / 100.0
        if step is not None:
            seconds = money.boot_seconds + step.cloud_seconds + step.transfer_seconds
    elif action == WAIT and step is not None:
        first = min((run.seconds_left for run in view.home.runs), default=0.0)
        seconds = first + step.home_seconds
    elif (machine := _machine_of(view, action)) is not None:
        found[at + 6] = _log(machine.busy_seconds)
        found[at + 7] = _log(machine.idle_seconds)
        found[at + 8] = machine.ready_in / 100.0
        if step is not None:
            seconds = machine.ready_in + step.cloud_seconds + step.transfer_seconds
            found[at + 3] = (machine.free_gb - step.memory_p95_gb) / 16.0
            found[at + 4] = (machine.cores_wanted + step.cores) / machine.cores
            found[at + 5] = float(step.kind in machine.warm)
    if step is not None:
        found[at + 2] = _log(seconds)
        found[at + 9] = math.tanh((step.deadline_in - step.after_seconds - seconds) / 300.0)
    return found


def _machine_of(view: View, action: int) -> MachineView | None:
    for first in (FIRST_MACHINE, FIRST_STOP):
        if first <= action < first + MACHINES:
            return view.machines[action - first]
    return None
