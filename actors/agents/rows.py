"""Agents as the store keeps them, and back: all that it takes to start them again."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from actors.agent_records import AgentRow
from actors.agents.last_restart import LastRestart
from actors.agents.options import AgentOptions, Capability
from actors.agents.spec import AgentSpec
from actors.registry import AgentStatus, Entry

_ENVIRONMENT = "environment"
_LAST_RESTART = "last_restart"


def to_row(entry: Entry) -> AgentRow:
    """An agent for the store."""
    spec = entry.spec
    return AgentRow(
        spec.name,
        spec.class_name,
        entry.status.value,
        spec.options.place,
        spec.options.isolated,
        entry.registered_at,
        entry.restarts,
        entry.node,
        [asdict(one) for one in entry.capabilities.values()],
        options_json(entry),
        dict(spec.arguments),
    )


def options_json(entry: Entry) -> dict[str, Any]:
    """The options of an agent, its environment and its last restart, for their column."""
    spec, last = entry.spec, entry.last_restart
    found = {**spec.options.as_json(), _ENVIRONMENT: dict(spec.environment)}
    return found if last is None else {**found, _LAST_RESTART: last.as_json()}


def from_row(row: AgentRow) -> Entry:
    """An agent from the store; it runs nowhere yet. What this release does not know is left out."""
    options = _known(AgentOptions, row.options)
    environment = row.options.get(_ENVIRONMENT) or {}
    spec = AgentSpec(row.name, row.class_name, row.arguments, AgentOptions(**options), environment)
    found = [Capability(**_known(Capability, one)) for one in row.capabilities]
    failed = row.status == AgentStatus.FAILED
    return Entry(
        spec,
        {one.name: one for one in found},
        AgentStatus.FAILED if failed else AgentStatus.RESTARTING,
        row.registered_at,
        restarts=row.restarts,
        last_restart=LastRestart.from_json(row.options.get(_LAST_RESTART)),
        reason="it failed too often" if failed else "the head was started again",
    )


def _known(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in values.items() if name in names}
