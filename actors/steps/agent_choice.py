"""Whom an agent step asks, and for what, as far as the registry's own look-up does not say it."""

from __future__ import annotations

import random

from actors.agents.directory import Listing
from actors.registry import Registry
from actors.selection import select
from actors.workflow.tasks import StepError

STAY_HOME = frozenset({"private", "local"})
"""Places of agents that are on the head always."""
_random = random.Random()


def agent_at_home(registry: Registry, target: str, listing: Listing, strategy: str) -> str:
    """One of the agents of a listing that never leaves the head.

    Args:
        registry: Knows their places.
        target: What was looked up, for the message.
        listing: What was found.
        strategy: How one of several is chosen.

    Raises:
        StepError: There is none.
    """
    places = {one.agent: registry.get(one.agent).spec.options.place for one in listing.candidates}
    at_home = [one for one in listing.candidates if places[one.agent] in STAY_HOME]
    if not at_home:
        told = ", ".join(f"{name} ({place})" for name, place in sorted(places.items()))
        raise StepError(
            "invalid",
            f"the step's place is private, and who answers to {target!r} may be in the cloud: "
            f"{told}; start one with the place private",
            retryable=False,
        )
    return select(at_home, strategy, lambda name: 0, _random).agent
