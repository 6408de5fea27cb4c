"""Kinds of events of a simulated day; of those at one time the lower ones come first."""

from __future__ import annotations

from enum import IntEnum


class Event(IntEnum):
    """What happens; beside it what comes with it."""

    ENDED = 0  # (site, version, machine or None): its next step has done its work
    SHOCK = 1  # (zone, slot): a machine that is there is taken back
    GONE = 2  # machine: its notice is over
    READY = 3  # machine
    NONE_LEFT = 4  # machine: the zone had none
    USER = 5  # GB that the user holds from now on
    MIDNIGHT = 6
    CAP = 7  # version: the money may be at its end
    ARRIVAL = 8  # workflow
    DEADLINE = 9  # workflow
    WAKE = 10  # task
    IDLE = 11  # (machine, version): it has been idle for a while
