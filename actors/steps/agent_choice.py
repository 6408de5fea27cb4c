"""Whom an agent step asks, and for what, as far as the registry's own look-up does not say it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

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


def only_capability(registry: Registry, name: str) -> str | None:
    """What is meant where a step names an agent and no method.

    Returns:
        Its only capability; None: it has none, and is sent what it makes of it (`on_message`).

    Raises:
        StepError: It has several.
    """
    found = sorted(registry.get(name).capabilities)
    if len(found) > 1:
        raise StepError(
            "invalid",
            f"agent {name!r} has several capabilities: say which by `method`: {', '.join(found)}",
            retryable=False,
        )
    return found[0] if found else None


def declares_idempotent(registry: Registry, target: str, options: Mapping[str, Any]) -> bool:
    """Whether what a step asks for is declared idempotent by every agent that may answer.

    Args:
        registry: Of all agents.
        target: A capability; or an agent's name.
        options: Of the step: `by`, and with a name `method`.
    """
    if options.get("by") != "name":
        found = registry.offering(target)  # running now or not
        return bool(found) and all(entry.capabilities[target].idempotent for entry in found)
    if target not in registry:
        return False
    capabilities = registry.get(target).capabilities
    meant = [options["method"]] if options.get("method") else list(capabilities)
    return len(meant) == 1 and meant[0] in capabilities and capabilities[meant[0]].idempotent
