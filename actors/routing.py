"""Where a step or an agent runs: a policy decides, within what is allowed.

A policy sees features (numbers), options and a mask, and says which option it takes, with what
probability it would have taken it, and why. It does no I/O, so that a learned one can take its
place by the setting `routing.policy`; each decision can be logged with all that it was made from
(`actors.decision_log`), which is what such a policy learns from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from actors.situation import SituationPolicy
from cluster.names import load_by_name
from cluster.placement import (
    CLOUD_MEMORY_GB,
    CLOUD_MINUTES,
    RESERVE_GB,
    has_local_room,
    should_use_cloud,
)
from ironcliw.errors import SettingsError, UnavailableError

if TYPE_CHECKING:
    from ironcliw.settings import Settings

LOCAL, SPOT = "local", "spot"
RULES = "actors.routing:PlacementPolicy"
_SECONDS_A_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Option:
    """A place that work may go to.

    Attributes:
        name: `local`, the head, or `spot`, a worker in the cloud.
        ready: Whether it could start now, without a machine that has to be bought first.
    """

    name: str
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy decided.

    Attributes:
        index: Into the options.
        propensity: Probability with which the policy takes this option here, above 0 and up to 1.
        reasons: In words, for people.
    """

    index: int
    propensity: float = 1.0
    reasons: tuple[str, ...] = ()


@runtime_checkable
class RouterPolicy(Protocol):
    """Chooses a place.

    Features, each a number:

        memory_gb          that the work holds at most
        expected_seconds   that it takes
        seconds_left       until its deadline; infinite without one
        priority           0 critical, 1 high, 2 normal, 3 low
        attempt            1 for the first
        free_ram_gb        of the head, available now
        ram_percent        of the head, in use
        running_local      steps that run on the head
        running_spot       and in the cloud
    """

    name: str

    def decide(
        self, features: Mapping[str, float], options: Sequence[Option], mask: Sequence[bool]
    ) -> Choice:
        """Choose one of the options whose mask is true; at least one is."""


class PlacementPolicy:
    """The rules of `cluster.placement`: at home where it is free, in the cloud what is large.

    A job of more than 8 GB for more than 10 minutes goes to the cloud, and so does what does not
    fit beside the 4 GB that stay free, and anything while 85 % of the head's memory are in use, if
    a worker is there already. All else stays at home.
    """

    name = "placement"

    def decide(
        self, features: Mapping[str, float], options: Sequence[Option], mask: Sequence[bool]
    ) -> Choice:
        """See `RouterPolicy`; the propensity is 1, for nothing here is left to chance."""
        by_name = {
            option.name: index
            for index, (option, allowed) in enumerate(zip(options, mask, strict=True))
            if allowed
        }
        if len(by_name) == 1:
            ((only, index),) = by_name.items()
            return Choice(index, 1.0, (f"{only} is the only place allowed",))
        reason = _why_cloud(features, options[by_name[SPOT]].ready)
        if reason is None:
            return Choice(by_name[LOCAL], 1.0, ("it fits at home, which is free",))
        return Choice(by_name[SPOT], 1.0, (reason,))


def _why_cloud(features: Mapping[str, float], ready: bool) -> str | None:
    memory, seconds = features.get("memory_gb", 0.0), features.get("expected_seconds", 0.0)
    if should_use_cloud(memory, seconds / _SECONDS_A_MINUTE):
        return f"more than {CLOUD_MEMORY_GB:g} GB for more than {CLOUD_MINUTES:g} minutes"
    free = features.get("free_ram_gb", math.inf)
    if memory > 0 and free - memory <= RESERVE_GB:
        return f"{memory:g} GB would leave less than {RESERVE_GB:g} GB of the head free"
    if ready and not has_local_room(features.get("ram_percent", 0.0)):
        return f"{features['ram_percent']:.0f} % of the head's memory are in use"
    return None


def options_of(has_cloud: bool, ready: bool) -> tuple[Option, ...]:
    """The places of this cluster.

    Args:
        has_cloud: Whether there may be workers.
        ready: Whether one has joined.
    """
    local = Option(LOCAL)
    return (local, Option(SPOT, ready)) if has_cloud else (local,)


def mask_of(place: str, options: Sequence[Option]) -> tuple[bool, ...]:
    """Which options a step's `place` allows: `local`, `spot`, `any` or `private`.

    `private` is `local` that no policy and no setting may change: its data never leave the head.

    Raises:
        UnavailableError: the place does not exist here.
    """
    allowed = {"local": {LOCAL}, "private": {LOCAL}, "spot": {SPOT}, "any": {LOCAL, SPOT}}[place]
    mask = tuple(option.name in allowed for option in options)
    if not any(mask):
        raise UnavailableError(
            f"the step's place is {place!r} and this cluster has none: set cloud.project, or write "
            "`place: any`",
            code="no_place",
        )
    return mask


def checked(choice: Choice, options: Sequence[Option], mask: Sequence[bool], name: str) -> Choice:
    """A policy's choice, refused where it breaks the protocol.

    Raises:
        SettingsError: it took an option that does not exist or is masked, or its propensity is no
            probability.
    """
    if not 0 <= choice.index < len(options) or not mask[choice.index]:
        allowed = [option.name for option, free in zip(options, mask, strict=True) if free]
        raise SettingsError(
            f"routing policy {name!r} took option {choice.index}, and allowed are {allowed}; mend "
            f"the policy, or set routing.policy to {RULES!r}"
        )
    if not 0 < choice.propensity <= 1:
        raise SettingsError(
            f"routing policy {name!r} gave propensity {choice.propensity:g}; it is the probability "
            "of what was taken, above 0 and up to 1"
        )
    return choice


def load_policy(name: str, settings: Settings | None = None) -> RouterPolicy | SituationPolicy:
    """The policy that the setting `routing.policy` names.

    Args:
        name: Of an object; of a class without arguments, or with a class method `of(settings)`.
        settings: For such a method.

    Raises:
        SettingsError: it does not exist, or is neither a RouterPolicy nor a SituationPolicy.
    """
    found = load_by_name(name)
    if isinstance(found, type):
        make = getattr(found, "of", None)
        policy = found() if make is None or settings is None else make(settings)
    else:
        policy = found
    if not isinstance(policy, RouterPolicy | SituationPolicy):
        raise SettingsError(
            f"setting routing.policy: {name!r} is no RouterPolicy; it needs `name` and "
            "`decide(features, options, mask)`, see actors/routing.py, or `place(situation)`, see "
            "actors/situation.py"
        )
    return policy
