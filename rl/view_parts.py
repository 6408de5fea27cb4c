"""Parts of a view that the simulator and the running system make alike, from what each knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from rl.guardrails import TAIL_SECONDS
from rl.view import MachineView, RunView

HOUR = 3600.0
# What is believed before anything is known: one loss in 40 hours (shared notes: Gamma(1, 40 h)),
# and three starts of 90 s.
PRIOR_LOSSES, PRIOR_HOURS = 1.0, 40.0
PRIOR_BOOTS, PRIOR_BOOT_SECONDS = 3, 90.0
_LEAST_WORK = 0.001  # never 0: what has nothing left is idle, and may be stopped
_LEAST_BOOT = 5.0


class Bound(NamedTuple):
    """A step that begins once its machine is ready.

    Attributes:
        cores: That it keeps busy.
        memory_gb: That is kept for it.
        seconds: Believed, on cores of its own, with what it loads before.
    """

    cores: float
    memory_gb: float
    seconds: float


def boot_mean(boots: Sequence[float]) -> float:
    """Mean of what a machine takes to start, by the starts that were seen."""
    return (PRIOR_BOOTS * PRIOR_BOOT_SECONDS + sum(boots)) / (PRIOR_BOOTS + len(boots))


def hazard_mean(losses: float, hours: float) -> float:
    """Mean of what is believed of a machine's being taken back, an hour."""
    return (PRIOR_LOSSES + losses) / (PRIOR_HOURS + hours)


def run_view(
    work: float, slowness: float, memory_gb: float, priority: float, cores: float
) -> RunView:
    """A step that runs.

    Args:
        work: Seconds that it has left on cores of its own.
        slowness: Seconds that a second of work takes now.
        memory_gb: That it holds.
        priority: Of its workflow.
        cores: That it keeps busy.
    """
    work = max(work, _LEAST_WORK)
    return RunView(work * slowness, memory_gb, priority, cores, work)


def booting_view(
    state: Literal["booting", "leaving"],
    since_bought: float,
    boot_seconds: float,
    memory_gb: float,
    cores: float,
    bound: Sequence[Bound],
    warm: set[str],
) -> MachineView:
    """A machine that does not take steps yet.

    Args:
        state: Of it.
        since_bought: Seconds.
        boot_seconds: That it is believed to take.
        memory_gb: Of it, for steps.
        cores: Of it.
        bound: What begins there.
        warm: Kinds whose models it will hold.
    """
    ready_in = max(_LEAST_BOOT, boot_seconds - since_bought)
    wanted = held = longest = 0.0
    for one in bound:
        wanted += one.cores
        held += one.memory_gb
        longest = max(longest, one.seconds)
    busy = ready_in + longest * max(1.0, wanted / cores) if bound else 0.0
    return MachineView(state, ready_in, memory_gb - held, cores, wanted, busy, 0.0, warm, [])


def working_view(
    state: Literal["ready", "leaving"],
    free_gb: float,
    cores: float,
    cores_wanted: float,
    runs: list[RunView],
    idle_seconds: float,
    warm: set[str],
) -> MachineView:
    """A machine that takes steps, or did until it got notice; see `MachineView`."""
    busy = max((run.seconds_left for run in runs), default=0.0)
    idle = 0.0 if runs else idle_seconds
    return MachineView(state, 0.0, free_gb, cores, cores_wanted, busy, idle, warm, runs)


def committed_dollars(machines: Iterable[MachineView | None], price: float) -> float:
    """Believed cost of what machines have still to do.

    Args:
        machines: All of them.
        price: USD an hour of one.
    """
    return sum(
        (one.busy_seconds + TAIL_SECONDS) / HOUR * price
        for one in machines
        if one is not None and one.state != "leaving"
    )
