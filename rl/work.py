"""What a day holds: steps, workflows, what the user does, what happens in the zones.

A `Day` is fixed before anything is simulated, and never changed by it: policies are compared on the
same objects. What is true and what is believed stand side by side; a policy sees the beliefs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rl.draws import Draws
from rl.regime import Regime

Z95 = 1.6449  # of a standard normal
ZONES = 2


@dataclass(frozen=True, slots=True)
class Kind:
    """What steps of one kind have in common.

    Attributes:
        cores: That a step keeps busy.
        slowdown: Its time on a machine in the cloud by its time at home.
        cold_home: Seconds to load its model at home, unless a step of the kind ran there last.
        cold_cloud: The same on a machine.
        checkpointable: Whether it goes on where it was when its machine is taken back.
    """

    cores: float
    slowdown: float
    cold_home: float
    cold_cloud: float
    checkpointable: bool = False


# Ours, not measured: the M1 of the plan against four virtual cores of e2.
KINDS = {
    "decide": Kind(1.0, 1.5, 2.0, 8.0),
    "embed": Kind(4.0, 1.6, 3.0, 20.0),
    "generate": Kind(4.0, 2.0, 8.0, 60.0),
    "train": Kind(4.0, 1.4, 10.0, 45.0, checkpointable=True),
    "function": Kind(2.0, 1.15, 0.0, 5.0),
}


@dataclass(frozen=True, slots=True)
class Step:
    """A step, true and believed.

    Attributes:
        number: Of the day; keys its draws.
        workflow: Number of its workflow.
        index: Within the workflow.
        parents: Indices within the workflow.
        children: Likewise.
        memory_gb: That it really holds.
        memory_mean_gb: That it is believed to hold.
        memory_p95_gb: That it is believed to stay below in 19 of 20 cases.
        home_seconds: That it really takes at home on free cores, loaded.
        cloud_seconds: The same on a machine of speed 1.
        home_mean: What home_seconds is believed to be.
        cloud_mean: What cloud_seconds is believed to be.
        duration_sigma: Deviation of that belief's logarithm.
        transfer_mb: To bring to a machine before it starts there.
        private: Whether it must stay at home.
        after_mean: Believed seconds from its end to the workflow's, on the longest path.
        cores: That it keeps busy; None: its kind's.
    """

    number: int
    workflow: int
    index: int
    kind: str
    parents: tuple[int, ...]
    children: tuple[int, ...]
    memory_gb: float
    memory_mean_gb: float
    memory_p95_gb: float
    home_seconds: float
    cloud_seconds: float
    home_mean: float
    cloud_mean: float
    duration_sigma: float
    transfer_mb: float
    private: bool
    after_mean: float
    cores: float | None = None

    @property
    def cores_wanted(self) -> float:
        """That it keeps busy."""
        return KINDS[self.kind].cores if self.cores is None else self.cores


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow.

    Attributes:
        number: In order of arrival.
        shortest: Seconds that it takes at least, each step at its faster place.
    """

    number: int
    arrival: float
    priority: float
    deadline: float
    steps: tuple[Step, ...]
    shortest: float


@dataclass(frozen=True, slots=True)
class Day:
    """A day; times are seconds after its midnight.

    Attributes:
        user_gb: (since when, memory that the user holds), ordered.
        shocks: (when, zone, slot): a machine that is there then is taken back.
        outages: Of each zone, (begin, end) of times when nothing is to be had.
        stockout: Share of the other times, by slots of five minutes, when nothing is to be had.
        boot_median: Seconds.
        history: (machines lost, hours that machines ran) before it, at its hazard.
        draws: For boot times and speeds, by zone, time and slot.
        until: When the simulation ends even if work is left.
        month_spent: USD of the month's cap that are gone when the day begins.
        is_typical: Whether machines start and work as the median one does, whatever was drawn.
    """

    regime: Regime
    name: str
    workflows: tuple[Workflow, ...]
    user_gb: tuple[tuple[float, float], ...]
    shocks: tuple[tuple[float, int, int], ...]
    outages: tuple[tuple[tuple[float, float], ...], ...]
    hazard_per_hour: float
    stockout: float
    boot_median: float
    megabytes_per_second: float
    history: tuple[int, float]
    draws: Draws
    until: float
    month_spent: float = 0.0
    is_typical: bool = False

    def is_stocked_out(self, zone: int, now: float) -> bool:
        """Whether no machine is to be had in a zone, whoever asks."""
        if any(begin <= now < end for begin, end in self.outages[zone]):
            return True
        return self.draws.stream("stock").uniform(zone, int(now // 300)) < self.stockout

    def boot_seconds(self, zone: int, slot: int, now: float) -> float:
        """From the purchase of a machine to its first step."""
        if self.is_typical:
            return self.boot_median
        sigma = self.regime.spot.boot_sigma
        drawn = self.draws.stream("boot").log_normal(
            self.boot_median, sigma, zone, slot, int(now // 60)
        )
        return min(max(drawn, self.boot_median / 3), 3 * self.boot_median)

    def speed(self, zone: int, slot: int, now: float) -> float:
        """Of a machine bought now, relative to the usual; within `speed_bounds`."""
        if self.is_typical:
            return 1.0
        sigma = self.regime.spot.speed_sigma
        drawn = self.draws.stream("speed").log_normal(1.0, sigma, zone, slot, int(now // 60))
        slowest, fastest = speed_bounds(self.regime)
        return min(max(drawn, slowest), fastest)


def speed_bounds(regime: Regime) -> tuple[float, float]:
    """The slowest and the fastest machine there can be: two deviations from the usual."""
    return math.exp(-2 * regime.spot.speed_sigma), math.exp(2 * regime.spot.speed_sigma)
