"""The policy that decides where no learned one does: which file it comes from, in one place."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from ironcliw.errors import SettingsError
from rl import schema
from rl.greedy import Greedy, GreedyParameters
from rl.neural import Learned
from rl.parameters import TUNED, Parameters, load_tuned, of_the_cloud
from rl.policy_file import load_policy
from rl.queue_aware import QueueAware

logger = logging.getLogger(__name__)

PACKAGED = (TUNED.with_name("queue_aware.toml"), TUNED)
"""The first of them that there is."""
OWN_FILE = "base.toml"
"""Beside the fit in the state directory: what `python -m rl tune --out` wrote for this head."""
Base = Greedy | QueueAware
NAMES = {"greedy": "tuned greedy", "queue-aware": "queue-aware"}


def base_parameters(folder: Path | None = None) -> Parameters:
    """This head's own where there are any that can be used, else the packaged ones.

    Args:
        folder: Of the router in the state directory; None: there is none.

    Raises:
        SettingsError: the packaged file is damaged.
    """
    own = None if folder is None else folder / OWN_FILE
    if own is not None and own.exists():
        try:
            return load_tuned(own)
        except SettingsError as error:
            logger.error("the packaged policy decides: %s", error)
    return load_tuned(packaged())


def packaged() -> Path:
    """The file of the base that is shipped."""
    return next((path for path in PACKAGED if path.exists()), TUNED)


def base_of(parameters: Parameters, idle_seconds: float | None = None) -> Base:
    """The policy of parameters.

    Args:
        parameters: Of either.
        idle_seconds: After which the system gives machines back, so that a purchase pays for it;
            None: the policy does so itself.
    """
    own = parameters if idle_seconds is None else of_the_cloud(parameters, idle_seconds)
    if isinstance(own, GreedyParameters):
        return Greedy(own, name=NAMES["greedy"])
    return QueueAware(own, name=NAMES["queue-aware"])


def learned_of(path: Path, idle_seconds: float | None = None) -> Learned:
    """A learned policy whose base prices a purchase as the tuned policy here does.

    Else a file that has learned nothing would still decide otherwise than the tuned policy.

    Args:
        path: Of its file.
        idle_seconds: See `base_of`.

    Raises:
        SettingsError: see `rl.policy_file.load_policy`.
    """
    policy = load_policy(path)
    if idle_seconds is not None:
        policy = replace(policy, parameters=of_the_cloud(policy.parameters, idle_seconds))
    return Learned(policy)


def schema_of(base: Base) -> str:
    """What features are that were made with a policy's costs; a learned policy's file says it."""
    return schema.schema_of(base.parameters)
