"""`ironcliw agents`: list, show, start, stop, send, breakers, dead-letters and replay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from actors.agent_lines import (
    CAPABILITY_COLUMNS,
    agent_rows,
    capability_rows,
    check_answer,
    moment,
    sent_line,
)
from actors.agents.messages import DEFAULT_SECONDS, PRIORITIES
from actors.agents.options import AgentOptions
from actors.head_connection import connection
from ironcliw import console
from ironcliw.errors import RequestError

if TYPE_CHECKING:
    from actors.agents.client import Agents

_T = TypeVar("_T")

agents = typer.Typer(no_args_is_help=True, help="Start, stop and look after agents.")

_OPTIONS = ", ".join(field.name for field in fields(AgentOptions))
_VALUE = "JSON where it is JSON, else a text"
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of an agent.")]


@agents.command("list")
def list_agents(as_json: Json = False) -> None:
    """List agents: how they are, where they may run, and what they can do.

    `load` counts messages that wait or are worked on, `restarts` failures and lost processes.
    """
    found = _with_agents(lambda them: them.describe_all())
    if as_json:
        console.write_json(found)
        return
    rows = (
        (
            one["name"],
            one["status"],
            one["place"],
            one["load"],
            one["restarts"],
            ", ".join(one["capabilities"]),
            one["reason"],
        )
        for one in found
    )
    console.write_table(
        ("agent", "status", "place", "load", "restarts", "capabilities", "reason"), rows
    )


@agents.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show one agent: where it runs, why it was started again last, and how its messages fared.

    Of recent successes and failures those of five minutes ago count half.
    """
    found = _with_agents(lambda them: them.describe(name))
    if as_json:
        console.write_json(found)
        return
    console.write_table(("", ""), agent_rows(found))
    console.write_table(CAPABILITY_COLUMNS, capability_rows(found))


@agents.command("start")
def start(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CLASS", help="module:Class; or the name of an agent that is there already."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="By which others reach it; else made of the class's.")
    ] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option("--argument", "-a", help=f"NAME=VALUE of its __init__; {_VALUE}; repeatable."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help=f"NAME=VALUE instead of the class's: {_OPTIONS}."),
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            exists=True,
            help="Folder with CLASS's module: the head is sent a copy. Else it has to have it.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start an agent of a class; or one that is there, by its name, again from its last state.

    The latter is for one that was given up (status `failed`); one that runs is stopped first.
    """
    if ":" not in target:
        if name or argument or option or working_dir:
            raise RequestError(
                f"{target!r} names an agent that is there, which keeps its options; give a class "
                "as module:Class to start another"
            )
        _with_agents(lambda them: them.restart(target))
        chosen = target
    else:
        arguments, options = _pairs(argument, "--argument"), _pairs(option, "--option")
        chosen = _with_agents(
            lambda them: them.start(target, name=name, options=options, **arguments), working_dir
        )
    if as_json:
        console.write_json({"name": chosen})
    else:
        console.write_line(f"{chosen} is started")


@agents.command("stop")
def stop(
    name: Name,
    seconds: Annotated[
        float, typer.Option(min=0, help="How long it may take over messages that it has.")
    ] = 10.0,
    as_json: Json = False,
) -> None:
    """Stop an agent and forget it and its state."""
    _with_agents(lambda them: them.stop(name, seconds=seconds))
    if as_json:
        console.write_json({"name": name})
    else:
        console.write_line(f"{name} is stopped")


@agents.command("send")
def send(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="An agent or a capability.")],
    body: Annotated[
        str, typer.Argument(metavar="BODY", help=f"{_VALUE[:1].upper()}{_VALUE[1:]}.")
    ] = "null",
    capability: Annotated[
        str | None, typer.Option(help="Which one, where TARGET is an agent.")
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Wait for the answer and print it as JSON.")
    ] = False,
    durable: Annotated[
        bool, typer.Option("--durable", help="Keep it until an agent has dealt with it.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(help="With --durable: a second one of this key for TARGET is not sent."),
    ] = None,
    priority: Annotated[str, typer.Option(help=f"{', '.join(PRIORITIES)}.")] = "normal",
    deadline: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help=f"Seconds until nobody wants it; left out: none, with --ask {DEFAULT_SECONDS:g}.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send an agent a message; with --ask, print what it answers.

    An answer that JSON cannot write, such as a set, is an error (exit code 4): the agent has done
    its work all the same.
    """
    if ask and durable:
        raise RequestError("--ask waits for an answer, and --durable brings none; give one of them")
    if key is not None and not durable:
        raise RequestError("--key is for durable messages; give --durable too")
    content = _json_or_text(body)

    async def work(them: Agents) -> Any:
        if not ask:
            return await them.send(
                target,
                content,
                capability=capability,
                deadline_seconds=deadline,
                priority=priority,
                durable=durable,
                key=key,
            )
        return await them.ask(
            target,
            content,
            capability=capability,
            priority=priority,
            deadline_seconds=DEFAULT_SECONDS if deadline is None else deadline,
        )

    found = _with_agents(work)
    if not ask:
        if as_json:
            console.write_json({"answer": None, "new": found})
        else:
            console.write_line(sent_line(target, key, durable=durable, is_new=found))
        return
    check_answer(target, found)
    console.write_json({"answer": found} if as_json else found)


@agents.command("breakers")
def breakers(as_json: Json = False) -> None:
    """List capabilities that failed too often lately, and which process does not ask for them.

    Each process counts the failures of what it asked itself: `control` for workflows and durable
    messages, `agents-...` for the agents in it, `job-ID-PID-...` for a job, which tells of its own
    and is left out a minute after its pause. An `agents send` is a process that ends at once.
    """
    found = _with_agents(lambda them: them.breakers())
    if as_json:
        console.write_json(found)
        return
    rows = (
        (one["capability"], one["process"], one["state"], one["failures"], round(one["seconds"], 1))
        for one in found
    )
    console.write_table(
        ("capability", "not asked by", "state", "failures in a row", "seconds left"), rows
    )


@agents.command("dead-letters")
def dead_letters(
    recipient: Annotated[str | None, typer.Option(help="An agent or a capability.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: Json = False,
) -> None:
    """List durable messages that were given up, the latest first; see replay."""
    found = _with_agents(lambda them: them.dead_letters(recipient, limit=limit))
    if as_json:
        console.write_json(found)
        return
    rows = (
        (
            one["id"],
            one["recipient"],
            one["body"]["capability"],
            one["attempts"],
            moment(one["finished_at"]),
            one["error"],
        )
        for one in found
    )
    console.write_table(("id", "recipient", "capability", "attempts", "given up", "error"), rows)


@agents.command("replay")
def replay(
    message_id: Annotated[str, typer.Argument(metavar="ID", help="See dead-letters.")],
    as_json: Json = False,
) -> None:
    """Send a dead letter once more, as if it had never been delivered."""
    found = _with_agents(lambda them: them.replay(message_id))
    if as_json:
        console.write_json(found)
    else:
        console.write_line(f"{message_id} is on its way to {found['recipient']}")


def _with_agents(work: Callable[[Agents], Awaitable[_T]], working_dir: Path | None = None) -> _T:
    """Do something with the agents of this machine's head."""
    settings = console.command_settings()

    async def connected() -> _T:
        from actors.agents.client import Agents

        async with await Agents.connect() as them:
            return await work(them)

    with connection(settings, working_dir):
        return asyncio.run(connected())


def _pairs(given: list[str] | None, option: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise RequestError(f"{option} {pair!r}: write NAME=VALUE")
        found[name] = _json_or_text(value)
    return found


def _json_or_text(given: str) -> Any:
    try:
        return json.loads(given)
    except ValueError:
        return given
