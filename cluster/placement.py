"""Where work belongs: at home, which is free, or in the cloud, which has memory. Pure rules.

The names, the limits and the direction of every comparison are those of the project's original
rules. Gigabytes are whatever unit the caller uses for all figures of a call.
"""

from __future__ import annotations

import math
from enum import StrEnum

from ironcliw.errors import RequestError

# A model needs its weights twice while it is loaded: as read, and as laid out for computing.
LOADING_FACTOR = 2.0
# What must stay free for everything else on the machine.
RESERVE_GB = 4.0
CLOUD_MEMORY_GB = 8.0
CLOUD_MINUTES = 10.0
# Share of RAM in use from which a home machine takes on no further work.
BUSY_PERCENT = 85.0


class Backend(StrEnum):
    """Where a model runs or a job goes."""

    LOCAL = "local"
    CLOUD = "cloud"


def select_model_backend(model_size_gb: float, free_ram_gb: float) -> Backend:
    """Where a model fits: local if, once it is loaded, more than 4 GB stay free.

    Args:
        model_size_gb: Size of the weights.
        free_ram_gb: Memory of this machine that is available now.

    Raises:
        RequestError: a figure is negative or no finite number.

    >>> select_model_backend(1.6, 10.5).value  # bart-large-mnli: 10.5 - 3.2 > 4
    'local'
    >>> select_model_backend(1.6, 7.2).value  # exactly 4 left is not more than 4
    'cloud'
    """
    _check("model_size_gb", model_size_gb)
    _check("free_ram_gb", free_ram_gb)
    left = free_ram_gb - LOADING_FACTOR * model_size_gb
    return Backend.LOCAL if left > RESERVE_GB else Backend.CLOUD


def should_use_cloud(memory_gb: float, duration_minutes: float) -> bool:
    """Whether a job is worth a machine in the cloud: more than 8 GB for more than 10 minutes.

    A short job ends before a machine has started, a small one does not disturb this machine.

    Args:
        memory_gb: Most memory that the job holds.
        duration_minutes: How long it is expected to run.

    Raises:
        RequestError: a figure is negative or no finite number.

    >>> should_use_cloud(12, 30), should_use_cloud(12, 10), should_use_cloud(8, 30)
    (True, False, False)
    """
    _check("memory_gb", memory_gb)
    _check("duration_minutes", duration_minutes)
    return memory_gb > CLOUD_MEMORY_GB and duration_minutes > CLOUD_MINUTES


def has_local_room(ram_percent: float) -> bool:
    """Whether this machine takes on more work: less than 85 % of its memory is in use.

    Args:
        ram_percent: Share of memory in use, 0 to 100.

    Raises:
        RequestError: the figure is no percentage.

    >>> has_local_room(84.9), has_local_room(85)
    (True, False)
    """
    _check("ram_percent", ram_percent)
    if ram_percent > 100:
        raise RequestError(
            f"ram_percent is {ram_percent:g}; give a share between 0 and 100", param="ram_percent"
        )
    return ram_percent < BUSY_PERCENT


def _check(name: str, value: float) -> None:
    if not math.isfinite(value) or value < 0:
        raise RequestError(f"{name} is {value:g}; give a finite number of 0 or more", param=name)
