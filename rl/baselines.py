"""The rules that a learned policy is compared with, each behind the same guardrails.

A rule says where it would put a step. Where the guardrails refuse that place the step goes to the
other, and waits if that is refused too. Machines are given back after 15 minutes without work.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from cluster.placement import (
    BUSY_PERCENT,
    CLOUD_MEMORY_GB,
    CLOUD_MINUTES,
    LOADING_FACTOR,
    RESERVE_GB,
)
from rl import guardrails
from rl.simulator import Order
from rl.view import BUY, FIRST_MACHINE, FIRST_STOP, HOME, KEEP, MACHINES, WAIT, StepView, View

IDLE_SECONDS = 900.0


class Rule(ABC):
    """A rule that knows two places."""

    name: str
    order: Order = "fifo"

    @abstractmethod
    def is_for_home(self, view: View, step: StepView) -> bool:
        """Where the step belongs."""

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """See `rl.simulator.Policy`."""
        step = view.step
        if step is None:
            return idle_for(view, mask, IDLE_SECONDS)
        away = least_loaded(view, mask)
        if self.is_for_home(view, step):
            places = (HOME, WAIT) if self.waits_for_home(view, step) else (HOME, away)
        else:
            places = (away, HOME)
        return next((place for place in places if mask[place]), _any(mask))

    def waits_for_home(self, view: View, step: StepView) -> bool:
        """Whether a step that belongs at home waits for memory there."""
        return step.memory_p95_gb <= view.home.room_gb - guardrails.RESERVE_GB


def _any(mask: Sequence[bool]) -> int:
    return WAIT if mask[WAIT] else list(mask).index(True)


class FreeMemoryRule(Rule):
    """At home while loading it would leave more than 4 GB free: `select_model_backend`."""

    name = "rule A: free memory"

    def is_for_home(self, view: View, step: StepView) -> bool:
        """See the class."""
        return view.home.free_gb - LOADING_FACTOR * step.memory_mean_gb > RESERVE_GB

    def waits_for_home(self, view: View, step: StepView) -> bool:
        """What it wants at home has room there."""
        return False


class LargeAndLongRule(Rule):
    """Away if it holds more than 8 GB for more than 10 minutes: `should_use_cloud`."""

    name = "rule B: large and long"

    def is_for_home(self, view: View, step: StepView) -> bool:
        """See the class."""
        return step.memory_mean_gb <= CLOUD_MEMORY_GB or step.home_seconds <= 60.0 * CLOUD_MINUTES


class BusyHomeRule(Rule):
    """At home while less than 85 % of its memory is in use: `has_local_room`."""

    name = "rule C: busy home"

    def is_for_home(self, view: View, step: StepView) -> bool:
        """See the class."""
        used = view.home.memory_gb - view.home.free_gb
        return 100.0 * used / view.home.memory_gb < BUSY_PERCENT

    def waits_for_home(self, view: View, step: StepView) -> bool:
        """It knows of no step's size; what does not fit goes away."""
        return False


class AlwaysLocal(Rule):
    """At home whatever ever fits there; else away, as it would never run.

    Rule B is the same wherever nothing of more than 8 GB that takes over ten minutes fits at home,
    as on all days of our regimes; the report says so.
    """

    name = "always local"

    def is_for_home(self, view: View, step: StepView) -> bool:
        """See the class."""
        return self.waits_for_home(view, step)


class AlwaysCloud(Rule):
    """Away whatever may leave."""

    name = "always cloud"

    def is_for_home(self, view: View, step: StepView) -> bool:
        """See the class."""
        return step.private


def least_loaded(view: View, mask: Sequence[bool]) -> int:
    """The machine with the least work for its cores, a new one where all are busy, or WAIT."""
    best, found = math.inf, WAIT
    for slot in range(MACHINES):
        machine = view.machines[slot]
        if mask[FIRST_MACHINE + slot] and machine is not None:
            load = machine.cores_wanted / machine.cores
            if load < best:
                best, found = load, FIRST_MACHINE + slot
    return BUY if best >= 1.0 and mask[BUY] else found


def idle_for(view: View, mask: Sequence[bool], seconds: float) -> int:
    """Stop a machine that was idle for so long, or KEEP."""
    for slot in range(MACHINES):
        machine = view.machines[slot]
        if mask[FIRST_STOP + slot] and machine is not None and machine.idle_seconds >= seconds:
            return FIRST_STOP + slot
    return KEEP


RULES: tuple[type[Rule], ...] = (
    FreeMemoryRule,
    LargeAndLongRule,
    BusyHomeRule,
    AlwaysLocal,
    AlwaysCloud,
)
