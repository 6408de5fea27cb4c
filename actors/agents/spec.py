"""All that it takes to make an agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.agent import Agent
from actors.agents.options import AgentOptions
from cluster.names import load_by_name
from ironcliw.errors import SettingsError


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """All that it takes to make an agent.

    Attributes:
        name: by which others reach it.
        class_name: "module:Class".
        arguments: of its `__init__`.
        options: how it is run.
        environment: Ray's runtime environment, in which the class can be imported.
    """

    name: str
    class_name: str
    arguments: Mapping[str, Any]
    options: AgentOptions
    environment: Mapping[str, Any] = field(default_factory=dict)


def load_agent_class(class_name: str) -> type[Agent]:
    """The class that "module:Class" names.

    Raises:
        SettingsError: it cannot be loaded, or is no subclass of `Agent`.
    """
    try:
        found = load_by_name(class_name)
    except SettingsError as error:
        if not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        raise SettingsError(
            f"{error.message}; if the module stands in a folder of yours, send that along: "
            "`ironcliw agents start --working-dir FOLDER`, or `ray job submit --working-dir FOLDER`"
        ) from error.__cause__
    if not (isinstance(found, type) and issubclass(found, Agent)):
        raise SettingsError(f"{class_name!r} is no class of agents; derive it from Agent")
    return found
