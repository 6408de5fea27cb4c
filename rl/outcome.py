"""What a day came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from rl.work import Day

if TYPE_CHECKING:
    from rl.mechanics import Mechanics


@dataclass(frozen=True, slots=True)
class Outcome:
    """A day with one policy; the objective is `cost`.

    Attributes:
        cost: USD: machines, the value of waiting, missed deadlines.
        dollars: For machines.
        borrowed: Of these, after midnight; each costs twice (`rl.ledger.BORROWED`).
        waiting: The value of the workflows' time.
        misses: Charged for deadlines.
        met: Share of the workflows that kept their deadline.
        flow_p50: Seconds from a workflow's arrival to its end, median.
        flow_p95: The same, 95th percentile.
        slowdown_p50: A flow by the shortest possible one, median.
        machine_hours: Paid for.
        bought: Machines that were ordered.
        stocked_out: Of these, that no zone had.
        lost: Machines taken back.
        lost_seconds: Of work at home that has to be done again.
        out_of_memory: Steps that were ended because memory ran out.
        misplaced: Of these, as a step was placed; the others when the user took memory.
        breaches: Days that cost more than their cap.
        unfinished: Workflows that had not ended when the simulation did.
        decisions: Asked and taken.
    """

    cost: float
    dollars: float
    borrowed: float
    waiting: float
    misses: float
    met: float
    flow_p50: float
    flow_p95: float
    slowdown_p50: float
    machine_hours: float
    bought: int
    stocked_out: int
    lost: int
    lost_seconds: float
    out_of_memory: int
    misplaced: int
    breaches: int
    workflows: int
    unfinished: int
    decisions: int

    def as_dict(self) -> dict[str, float]:
        """By name, for JSON."""
        return asdict(self)


def outcome_of(day: Day, world: Mechanics, decisions: int) -> Outcome:
    """Sum up a simulation that has ended."""
    world.close()
    flows = np.array(
        [
            world.finished.get(workflow.number, world.now) - workflow.arrival
            for workflow in day.workflows
        ]
    )
    shortest = np.array([max(workflow.shortest, 1.0) for workflow in day.workflows])
    return Outcome(
        cost=world.cost(),
        dollars=world.ledger.total,
        borrowed=world.ledger.borrowed,
        waiting=world.waiting_cost,
        misses=world.miss_cost,
        met=1.0 - world.missed / len(day.workflows),
        flow_p50=float(np.median(flows)),
        flow_p95=float(np.percentile(flows, 95)),
        slowdown_p50=float(np.median(flows / shortest)),
        machine_hours=world.ledger.machine_seconds / 3600.0,
        bought=world.bought,
        stocked_out=world.stocked_out,
        lost=world.lost,
        lost_seconds=world.lost_seconds,
        out_of_memory=world.out_of_memory,
        misplaced=world.misplaced,
        breaches=world.ledger.breaches,
        workflows=len(day.workflows),
        unfinished=len(day.workflows) - len(world.finished),
        decisions=decisions,
    )
