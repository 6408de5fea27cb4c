"""The parameters of the queue-aware policy: what each means, and where a search begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rl.weights import Weights


@dataclass(frozen=True, slots=True)
class QueueParameters(Weights):
    """Weights of the costs; each is positive. Those that the tuned greedy has begin at its values.

    Attributes:
        order_priority: See `rl.urgency.Urgency`; so are the next four.
        wait_weight: Of the value of the time until the step's end.
        beside_weight: Of that time where another step of the workflow takes longer anyway.
        miss_weight: Of the charge for a missed deadline.
        risk: Of how far the end is, the share by which it may be wrong.
        doubt_seconds: By which it may be wrong beside that.
        optimism: Of the time until memory comes free.
        ahead: Of the time that more urgent steps will hold that memory first.
        refill_seconds: Until the user lets go of memory.
        crowding: Of the time that steps at home lose to one more.
        crowding_cloud: Of the time that steps on a machine lose to one more.
        dollar: Price of a machine's dollar.
        scarcity: Beside it, where all that is left of the day's money is spoken for.
        ration: Beside it, for the share of the day's money that is gone before its hour.
        ration_shape: How late in the day the money is meant for: 1 is evenly.
        tail_seconds: Of a new machine's time that nothing will use.
        tail_shared: By which each step that waits makes that less.
        stock: Chance that no machine is to be had, right after none was.
        shared: Part of a busy machine's time that a further step pays for.
        hazard_weight: Of what is expected to be lost when a machine is taken back.
        slowdown: By which machines are believed slower than their kind says.
        pace: Exponent of how slow they have been today.
        rent_memory: USD an hour for all memory of the head, while one step waits for it.
        rent_cores: The same for all its cores.
        coming: Steps that wait, for each workflow that came within half an hour.
        rent_later: Of the rent, what a step pays that waits first.
        idle_seconds: After which a machine without work is given back.
        idle_session: By which each workflow that came within half an hour makes that longer.
        prewarm: In starts of a machine, how early one is bought for a large step to come.
        look_ahead: Of what the others that wait are believed to lose or gain by an option.
    """

    policy: ClassVar[str] = "queue-aware"
    order_priority: float = 1.0
    order_left: float = 1.0
    order_size: float = 0.003
    order_deadline: float = 0.08
    order_width: float = 0.5
    wait_weight: float = 0.8836
    beside_weight: float = 0.95
    miss_weight: float = 0.883
    risk: float = 0.3458
    doubt_seconds: float = 20.0
    optimism: float = 0.9172
    ahead: float = 0.02
    refill_seconds: float = 600.0
    crowding: float = 1.55
    crowding_cloud: float = 0.05
    dollar: float = 1.0
    scarcity: float = 0.5717
    ration: float = 0.05
    ration_shape: float = 1.0
    tail_seconds: float = 89.42
    tail_shared: float = 0.03
    stock: float = 0.03
    shared: float = 0.1415
    hazard_weight: float = 0.817
    slowdown: float = 1.074
    pace: float = 0.1
    rent_memory: float = 0.001
    rent_cores: float = 0.001
    coming: float = 0.1
    rent_later: float = 0.7
    idle_seconds: float = 109.7
    idle_session: float = 0.01
    prewarm: float = 0.4652
    look_ahead: float = 0.005
