"""What a policy may see when it decides: only what the live system can know too.

The simulator builds a `View` for each decision, and the live router builds the same one, so that a
policy and the guardrails cannot tell them apart. Memory is in GB, time in seconds, money in USD.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

MACHINES = 3
# Actions. A decision about a step is one of the first six, one about the machines of the others.
HOME = 0
FIRST_MACHINE = 1  # and the two after it: machine of slot 0, 1, 2
BUY = 4
WAIT = 5
KEEP = 6
PREWARM = 7
FIRST_STOP = 8  # and the two after it: stop the machine of slot 0, 1, 2
ACTIONS = 11
ACTION_NAMES = (
    "home", "machine 0", "machine 1", "machine 2", "buy", "wait",
    "keep", "prewarm", "stop 0", "stop 1", "stop 2",
)  # fmt: skip


@dataclass(slots=True)
class StepView:
    """A step that is ready.

    Attributes:
        number: Which.
        memory_mean_gb: That it is believed to hold.
        memory_p95_gb: That it stays below in 19 of 20 cases.
        home_seconds: Believed work left at home, on free cores, without loading its model.
        cloud_seconds: The same on a machine, without transfer.
        duration_sigma: Deviation of that belief's logarithm.
        cold_home: To load its model at home, if it is not there.
        cold_cloud: The same on a machine.
        cores: That it keeps busy.
        transfer_seconds: To bring its input to a machine.
        priority: Weight of its workflow's time.
        deadline_in: Until its workflow's deadline; negative when that has passed.
        after_seconds: Believed, on the longest path from its end to the workflow's.
        waited: Since it became ready.
        spot_losses: How often a machine was taken from under it.
        fan_out: Steps that need its output.
        beside_seconds: Believed until its workflow ended if it took no time at all, for the sake of
            the steps beside it.
    """

    number: int
    kind: str
    memory_mean_gb: float
    memory_p95_gb: float
    home_seconds: float
    cloud_seconds: float
    duration_sigma: float
    cold_home: float
    cold_cloud: float
    cores: float
    transfer_seconds: float
    checkpointable: bool
    private: bool
    priority: float
    deadline_in: float
    after_seconds: float
    waited: float
    spot_losses: int
    fan_out: int
    beside_seconds: float = 0.0


@dataclass(slots=True)
class RunView:
    """A step that runs.

    Attributes:
        seconds_left: Believed, at the rate that it runs at now.
        memory_gb: That it holds.
        priority: Weight of its workflow's time.
        cores: That it keeps busy.
        work_seconds: Believed left, if it had its cores for itself.
    """

    seconds_left: float
    memory_gb: float
    priority: float
    cores: float = 0.0
    work_seconds: float = 0.0


@dataclass(slots=True)
class WaitingView:
    """A step that is ready and has no place, as the others see it.

    Attributes:
        number: Which.
        memory_gb: That it stays below in 19 of 20 cases.
        home_seconds: Believed work left at home.
        cloud_seconds: The same on a machine.
        after_seconds: Believed, from its end to its workflow's.
        priority: Weight of its workflow's time.
        deadline: Of its workflow, seconds after midnight.
        private: Whether it must stay at home.
    """

    number: int
    memory_gb: float
    home_seconds: float
    cloud_seconds: float
    after_seconds: float
    priority: float
    deadline: float
    private: bool


@dataclass(slots=True)
class HomeView:
    """The head.

    Attributes:
        room_gb: Its memory less what the user holds now.
        free_gb: The same less what steps hold.
        cores: It has.
        cores_wanted: By the steps that run; may be more than it has.
        warm: Kind whose model was used last.
    """

    memory_gb: float
    room_gb: float
    free_gb: float
    cores: float
    cores_wanted: float
    runs: list[RunView]
    warm: str


@dataclass(slots=True)
class MachineView:
    """A machine.

    Attributes:
        state: `leaving` once it got notice.
        ready_in: Believed seconds until it takes steps; 0 when it does.
        free_gb: Of its memory, after all that runs and is bound to it.
        cores_wanted: By the same.
        busy_seconds: Believed, until it has done all that.
        idle_seconds: Since it did something last; 0 when it does.
        warm: Kinds whose models it holds.
        runs: Steps that run there.
    """

    state: Literal["booting", "ready", "leaving"]
    ready_in: float
    free_gb: float
    cores: float
    cores_wanted: float
    busy_seconds: float
    idle_seconds: float
    warm: set[str]
    runs: list[RunView] = field(default_factory=list)


@dataclass(slots=True)
class MoneyView:
    """Money and risk.

    Attributes:
        day_left: Of today's cap, after what is spent.
        month_left: Of the month's.
        committed: Believed cost of what the machines have still to do.
        hazard_per_hour: Mean of what is believed of a machine's being taken back.
        boot_seconds: Mean of the same of its start.
        stocked_out_seconds: Since no machine was to be had; infinite if that never was.
        day_cap: USD of today.
        cloud_pace: How many times as long as believed work took on machines, as far as is known.
    """

    price_per_hour: float
    day_left: float
    month_left: float
    committed: float
    hazard_per_hour: float
    boot_seconds: float
    stocked_out_seconds: float
    hour_of_priority: float
    miss: float
    day_cap: float = math.inf
    cloud_pace: float = 1.0


@dataclass(slots=True)
class View:
    """Everything at a decision.

    Attributes:
        now: Seconds after midnight of the day.
        step: That a place is sought for; None when it is about the machines.
        machines: By slot; None where there is none.
        waiting: Steps that are ready and have no place.
        arrivals_half_hour: Workflows that came within 30 minutes.
        large_in: Believed seconds until a step that cannot run at home is ready; infinite if none.
        others: Steps that are ready and have no place; the one that is asked about among them.
    """

    now: float
    step: StepView | None
    home: HomeView
    machines: list[MachineView | None]
    money: MoneyView
    waiting: int
    arrivals_half_hour: int
    large_in: float
    others: Sequence[WaitingView] = ()
