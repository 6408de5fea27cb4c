"""What a learned policy was trained with, as one digest that its file carries.

It is of the features' names, and of what views that never change are as features and cost by the
policy that is corrected: a network that was trained on other numbers under the same names is
refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cache

from rl.effects import EFFECTS, effects
from rl.features import SCHEMA, features
from rl.greedy import Greedy
from rl.parameters import Base, Parameters, kind_of
from rl.queue_aware import QueueAware
from rl.view import (
    ACTIONS,
    BUY,
    FIRST_MACHINE,
    HOME,
    KEEP,
    WAIT,
    HomeView,
    MachineView,
    MoneyView,
    RunView,
    StepView,
    View,
    WaitingView,
)
from rl.work import KINDS

_DECIMALS, _OF_DOLLARS = 4, 6
"""Machines differ in the last bits of exp and log, and no change that matters is smaller."""


def digest(base: Base | None = None, *, has_effects: bool = False) -> str:
    """SHA-256, in hexadecimal, of names and of numbers as this release makes them.

    Args:
        base: Whose costs; the expected-cost policy's without.
        has_effects: Whether those of `rl.effects` are among them.
    """
    policy, lines = base or Greedy(), [*SCHEMA, *(EFFECTS if has_effects else ())]
    for view in _views():
        mask = [(action < KEEP) == (view.step is not None) for action in range(ACTIONS)]
        costs = policy.costs(view, mask)
        context, options = features(view, mask, costs)
        lines += [_told(value, _OF_DOLLARS) for value in costs]
        lines += [_told(value) for value in (*context.tolist(), *options.ravel().tolist())]
        if has_effects and view.step is not None:
            found = effects(view, (HOME, FIRST_MACHINE, FIRST_MACHINE + 1, BUY, WAIT))
            lines += [_told(value, _OF_DOLLARS) for value in found.ravel().tolist()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _told(value: float, decimals: int = _DECIMALS) -> str:
    """A number without its last digits; no sign before a zero."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}" if math.isfinite(value) else str(value)


def _views() -> Iterator[View]:
    """A step of each kind as the head is half full, one that is late and large, and machines."""
    for number, kind in enumerate(KINDS):
        yield _view(_step(kind, number), large_in=math.inf)
    yield _view(_step("function", 3, memory=14.0, deadline=-40.0), large_in=75.0)
    yield _view(None, large_in=33.0)


def _view(step: StepView | None, large_in: float) -> View:
    runs = [RunView(41.0, 2.5, 1.3, 2.0, 35.0), RunView(260.0, 1.25, 0.8, 1.0, 240.0)]
    away = [RunView(130.0, 9.0, 1.1, 2.0, 130.0)]
    return View(
        now=38_000.0,
        step=step,
        home=HomeView(16.0, 11.5, 7.75, 8.0, 3.0, runs, "function"),
        machines=[
            MachineView("ready", 0.0, 21.0, 4.0, 2.0, 130.0, 0.0, {"function"}, away),
            MachineView("booting", 55.0, 30.0, 4.0, 0.0, 55.0, 0.0, set()),
            MachineView("ready", 0.0, 30.0, 4.0, 0.0, 0.0, 300.0, set(KINDS)),
        ],
        money=MoneyView(0.07, 0.33, 9.0, 0.05, 0.04, 92.0, 700.0, 0.3, 0.1, 0.4, 1.2),
        waiting=3,
        arrivals_half_hour=5,
        large_in=large_in,
        others=_others(step),
    )


def _others(step: StepView | None) -> list[WaitingView]:
    """Two that wait, and the step itself."""
    found = [
        WaitingView(90, 2.0, 30.0, 40.0, 0.0, 1.4, 38_200.0, False),
        WaitingView(91, 6.0, 700.0, 600.0, 60.0, 0.7, 39_500.0, True),
    ]
    if step is not None:
        deadline = 38_000.0 + step.deadline_in
        own = (step.home_seconds, step.cloud_seconds, step.after_seconds, step.priority, deadline)
        found.append(WaitingView(step.number, step.memory_p95_gb, *own, step.private))
    return found


def _step(kind: str, number: int, memory: float = 1.5, deadline: float = 900.0) -> StepView:
    return StepView(
        number=number,
        kind=kind,
        memory_mean_gb=memory,
        memory_p95_gb=1.4 * memory,
        home_seconds=80.0 + 11.0 * number,
        cloud_seconds=95.0 + 7.0 * number,
        duration_sigma=0.35,
        cold_home=6.0,
        cold_cloud=12.0,
        cores=KINDS[kind].cores,
        transfer_seconds=2.5,
        checkpointable=number % 2 == 1,
        private=False,
        priority=1.2,
        deadline_in=deadline,
        after_seconds=150.0,
        waited=17.0,
        spot_losses=1,
        fan_out=2,
        beside_seconds=210.0,
    )


DIGEST = digest()
"""Of this release, where the expected-cost policy is corrected."""


@cache
def _of_kind(kind: str, has_effects: bool) -> str:
    base = QueueAware() if kind == "queue-aware" else Greedy()
    return digest(base, has_effects=has_effects)


def schema_of(parameters: Parameters, *, has_effects: bool = False) -> str:
    """The digest of a policy that corrects a base.

    Args:
        parameters: Of the base.
        has_effects: Whether it learned what effects on others cost.
    """
    return _of_kind(kind_of(parameters), has_effects)
