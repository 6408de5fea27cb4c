"""What an option does to others, as numbers in which a learned cost may be linear.

The base believes each of these to cost something, or nothing: what steps that wait could do with
the memory and the cores that an option takes, what those that run lose by it, and what a purchase
or a wait means while others wait, come, or have spent the day's money. Each is in dollars or some
cents, 0 for every option but those it is about, and 0 for all in a decision about machines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rl.guardrails import RESERVE_GB
from rl.sharing import until_free
from rl.view import BUY, FIRST_MACHINE, HOME, WAIT, MachineView, StepView, View

HOUR = 3600.0
_CENT = 0.01
_LONGEST = 600.0  # seconds for which a step that no longer fits is thought to wait
_SOON = 120.0  # seconds within which a large step to come is near
_SESSION = 8.0  # workflows in half an hour that are many
_MACHINE_GB = 30.0
_MOST = 1.0  # USD
_MORNING, _WORKING_HOURS = 8.0, 15.0

_AT_HOME = (
    "home", "home_memory", "home_cores", "home_crowd", "home_coming", "home_blocked", "home_held",
    "home_large_soon",
)  # fmt: skip
_AWAY = (
    "machine_crowd", "machine_memory", "machine_longer", "machine_scarce", "machine_followers",
)  # fmt: skip
_BOUGHT = (
    "buy", "buy_seconds", "buy_scarce", "buy_early", "buy_followers", "buy_coming", "buy_risk",
    "buy_beside",
)  # fmt: skip
_WAITING = ("wait", "wait_others", "wait_own", "wait_memory", "wait_coming", "wait_machines")
EFFECTS = (*_AT_HOME, *_AWAY, *_BOUGHT, *_WAITING)

Numbers = npt.NDArray[np.float64]


def effects(view: View, actions: Sequence[int]) -> Numbers:
    """Of shape (len(actions), len(EFFECTS)).

    Args:
        view: At the decision.
        actions: Allowed ones.
    """
    found = np.zeros((len(actions), len(EFFECTS)))
    if view.step is None:
        return found
    seen = _Seen(view, view.step)
    for row, action in enumerate(actions):
        begin, values = seen.of(action)
        found[row, begin : begin + len(values)] = values
    return np.clip(found, -_MOST, _MOST)


class _Seen:
    """What all options of a decision share."""

    def __init__(self, view: View, step: StepView) -> None:
        self._view, self._step = view, step
        money, room = view.money, max(view.home.room_gb, 1.0)
        self._others = [one for one in view.others if one.number != step.number]
        self._weight = sum(one.priority for one in self._others)
        self._sendable = sum(one.priority for one in self._others if not one.private)
        self._coming = view.arrivals_half_hour / _SESSION
        self._second = money.hour_of_priority / HOUR  # USD of a workflow's second at priority 1
        self._price = money.price_per_hour / HOUR
        self._share = step.memory_p95_gb / room
        left = (money.day_left - money.committed) / max(money.day_left, 1e-6)
        self._taken = 1.0 - min(max(left, 0.0), 1.0)

    def of(self, action: int) -> tuple[int, list[float]]:
        """(where its features begin, their values)."""
        if action == HOME:
            return 0, self._home()
        if action == BUY:
            return len(_AT_HOME) + len(_AWAY), self._purchase()
        if action == WAIT:
            return len(EFFECTS) - len(_WAITING), self._wait()
        machine = self._view.machines[action - FIRST_MACHINE]
        assert machine is not None, "a machine that is not there is refused"
        return len(_AT_HOME), self._machine(machine)

    def _home(self) -> list[float]:
        home, step, view = self._view.home, self._step, self._view
        wanted = home.cores_wanted + step.cores
        rate = min(1.0, home.cores / wanted)
        before = min(1.0, home.cores / home.cores_wanted) if home.cores_wanted else 1.0
        seconds = (step.home_seconds + step.cold_home) / rate
        usd = self._second * seconds
        free = home.free_gb - RESERVE_GB
        after = free - step.memory_p95_gb
        blocked = sum(one.priority for one in self._others if after < one.memory_gb <= free)
        runs = sum(run.priority * min(run.seconds_left, seconds) for run in home.runs)
        return [
            _CENT,
            usd * self._share * self._weight,
            usd * step.cores / home.cores * self._weight,
            self._second * (1.0 - rate / before) * runs,
            usd * self._share * self._coming,
            self._second * min(seconds, _LONGEST) * blocked,
            usd * self._share,
            usd * math.exp(-view.large_in / _SOON),
        ]

    def _machine(self, machine: MachineView) -> list[float]:
        step = self._step
        rate = min(1.0, machine.cores / (machine.cores_wanted + step.cores))
        before = min(1.0, machine.cores / machine.cores_wanted) if machine.cores_wanted else 1.0
        cold = 0.0 if step.kind in machine.warm else step.cold_cloud
        seconds = machine.ready_in + (step.cloud_seconds + step.transfer_seconds + cold) / rate
        longer = max(0.0, seconds - machine.busy_seconds)
        runs = sum(run.priority * min(run.seconds_left, seconds) for run in machine.runs)
        return [
            self._second * (1.0 - rate / before) * runs,
            self._second * seconds * step.memory_p95_gb / _MACHINE_GB * self._sendable,
            self._price * longer,
            self._price * longer * self._taken,
            self._second * longer * self._sendable,
        ]

    def _purchase(self) -> list[float]:
        view, step, money = self._view, self._step, self._view.money
        seconds = money.boot_seconds + step.cloud_seconds + step.transfer_seconds + step.cold_cloud
        usd = self._price * seconds
        passed = (view.now / HOUR % 24.0 - _MORNING) / _WORKING_HOURS
        cap = money.day_cap if 0.0 < money.day_cap < math.inf else 0.0
        gone = 1.0 - (money.day_left - money.committed) / cap if cap else 0.0
        early = max(0.0, min(1.0, gone) - min(1.0, max(0.0, passed)))
        return [
            _CENT,
            usd,
            usd * self._taken,
            usd * early,
            self._second * seconds * self._sendable,
            usd * self._coming,
            self._second * seconds * min(1.0, money.hazard_per_hour * seconds / HOUR),
            _CENT * sum(one is not None for one in view.machines),
        ]

    def _wait(self) -> list[float]:
        view, step = self._view, self._step
        wait, _ = until_free(step.memory_p95_gb, view.home.free_gb - RESERVE_GB, view.home.runs)
        return [
            _CENT,
            _CENT * self._weight,
            self._second * step.priority * min(wait, HOUR),
            self._second * step.home_seconds * self._share * self._weight,
            _CENT * self._coming,
            _CENT * sum(one is not None and one.state == "ready" for one in view.machines),
        ]
