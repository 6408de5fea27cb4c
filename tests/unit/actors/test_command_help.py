"""What `ironcliw agents|workflow ... --help` tells a stranger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from actors.commands_agents import agents
from actors.commands_workflow import workflow


def commands() -> Iterator[Any]:
    for app in (agents, workflow):
        group = get_command(app)
        assert isinstance(group, TyperGroup)
        for name, command in group.commands.items():
            yield pytest.param(command, id=f"{group.name}-{name}")


@pytest.mark.parametrize("command", list(commands()))
def test_each_command_and_each_of_its_words_is_explained(command: Any) -> None:
    assert command.help
    unexplained = [one.name for one in command.params if not getattr(one, "help", None)]
    assert unexplained == []


@pytest.mark.parametrize(
    ("app", "words", "told"),
    [
        (workflow, ("submit",), "same FILE and inputs it gives the workflow that there is, with"),
        (workflow, ("submit",), "others it is refused"),
        (workflow, ("skip",), "it is shown as waived"),
        (agents, ("send",), "An answer that JSON cannot write, such as a set, is an error (exit"),
        (agents, ("breakers",), "Each process counts the failures of what it asked itself"),
    ],
)
def test_what_a_user_could_not_guess_is_told(app: Any, words: tuple[str, ...], told: str) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert told in " ".join(shown.output.replace("\u2502", " ").split())
