"""Days made by hand: everything known, nothing lost, unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rl.beliefs import Cloud, workflow_of
from rl.draws import Draws
from rl.regime import Regime, regime_of
from rl.shapes import Draft, Shape
from rl.view import WAIT, View
from rl.work import Day, Workflow

BOOT = 100.0

PLAIN: dict[str, Any] = {
    "name": "plain",
    "estimates": {"duration_sigma": [0, 0], "memory_sigma": [0, 0]},
    "home": {"memory_gb": 16.0, "cores": 64.0, "user_gb": [4.5, 4.5]},
    "spot": {
        "memory_gb": 30.0,
        "cores": 64.0,
        "hazard_per_hour": [0, 0],
        "stockout": [0, 0],
        "outages_per_day": [0, 0],
        "boot_seconds": [BOOT, BOOT],
        "boot_sigma": 0.0,
        "speed_sigma": 0.0,
        "slowdown": [1, 1],
    },
    "deadlines": {"slack": [2.0, 2.0], "grace_seconds": [0, 0]},
}


def plain_regime(**sections: dict[str, Any]) -> Regime:
    """The plain regime with some values of some sections changed."""
    values = {
        name: dict(value) if isinstance(value, dict) else value for name, value in PLAIN.items()
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return regime_of(values, "a test's regime")


def step(
    seconds: float, memory_gb: float = 1.0, parents: Sequence[int] = (), kind: str = "function"
) -> Draft:
    """A step without transfer."""
    return Draft(kind, tuple(parents), memory_gb, seconds, 0.0)


def made_day(
    workflows: Sequence[tuple[float, Sequence[Draft]]],
    regime: Regime | None = None,
    *,
    priority: float = 1.0,
    deadline: float | None = None,
    private: bool = False,
    **fields: Any,
) -> Day:
    """A day of workflows, each (arrival, its steps); `fields` replace those of the day."""
    chosen = regime or plain_regime()
    found: list[Workflow] = []
    number = 0
    for index, (arrival, drafts) in enumerate(workflows):
        shape = Shape(tuple(drafts), priority, private)
        made = workflow_of(chosen, Draws(index), shape, index, number, arrival, Cloud(1.0, BOOT))
        found.append(made if deadline is None else replace(made, deadline=arrival + deadline))
        number += len(drafts)
    day = Day(
        regime=chosen,
        name="made",
        workflows=tuple(found),
        user_gb=((0.0, chosen.home.user_gb[1]),),
        shocks=(),
        outages=((), ()),
        hazard_per_hour=0.0,
        stockout=0.0,
        boot_median=BOOT,
        megabytes_per_second=10.0,
        history=(0, 20.0),
        draws=Draws(1),
        until=60 * 3600.0,
    )
    return replace(day, **fields)


class Prefer:
    """Takes the first allowed of the actions that a function names for a view."""

    name = "prefer"
    order = "fifo"

    def __init__(self, wanted: Callable[[View], Sequence[int]]) -> None:
        self._wanted = wanted

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """See `rl.simulator.Policy`."""
        wanted = [*self._wanted(view), WAIT, *range(len(mask))]
        return next(action for action in wanted if mask[action])
