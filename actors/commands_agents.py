"""`ironcliw agents`: list, show, start, stop, send, breakers, dead-letters and replay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from actors.agents.messages import DEFAULT_SECONDS, PRIORITIES
from actors.head_connection import connection
from ironcliw import console
from ironcliw.errors import RequestError

if TYPE_CHECKING:
    from actors.agents.client import Agents

_T = TypeVar("_T")

agents = typer.Typer(no_args_is_help=True, help="Start, stop and look after agents.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of an agent.")]


@agents.command("list")
def list_agents(as_json: Json = False) -> None:
    """List agents: how they are, where, and what they can do."""
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
    """Show one agent, with what became of the messages for its capabilities."""
    found = _with_agents(lambda them: them.describe(name))
    if as_json:
        console.write_json(found)
        return
    skipped = {"capabilities"}
    console.write_table(
        ("", ""), ((key, _text(value)) for key, value in found.items() if key not in skipped)
    )
    rows = (
        (
            capability,
            one["concurrency"],
            one["idempotent"],
            _milliseconds(one["average_seconds"]),
            one["recent_successes"],
            one["recent_failures"],
        )
        for capability, one in found["capabilities"].items()
    )
    console.write_table(
        ("capability", "concurrency", "idempotent", "average ms", "successes", "failures"), rows
    )


@agents.command("start")
def start(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CLASS", help="module:Class, or the name of an agent that is there."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="By which others reach it.")] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option("--argument", "-a", help="NAME=VALUE of its __init__; VALUE as JSON."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="NAME=VALUE: place, memory_gb, isolated, ..."),
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(file_okay=False, exists=True, help="Folder with CLASS's module, to be sent."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start an agent of a class; or, by its name, one that was given up, from its last state."""
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
        float, typer.Option(min=0, help="For the messages that it has already.")
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
    body: Annotated[str, typer.Argument(metavar="BODY", help="JSON, or a text as it is.")] = "null",
    capability: Annotated[
        str | None, typer.Option(help="Which one, where TARGET is an agent.")
    ] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Wait for the answer and print it.")] = False,
    durable: Annotated[
        bool, typer.Option("--durable", help="Keep it until an agent has dealt with it.")
    ] = False,
    key: Annotated[
        str | None, typer.Option(help="Of a durable message: sent twice, it is one.")
    ] = None,
    priority: Annotated[str, typer.Option(help=f"{', '.join(PRIORITIES)}.")] = "normal",
    deadline: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds after which nobody wants it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send an agent a message; with --ask, print what it answers."""
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
        _write_sent(target, key, durable=durable, is_new=found, as_json=as_json)
        return
    _check_answer(target, found)
    console.write_json({"answer": found} if as_json else found)


@agents.command("breakers")
def breakers(as_json: Json = False) -> None:
    """List capabilities that failed too often lately, and which process does not ask for them."""
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
    """List durable messages that were given up, the latest first."""
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
            datetime.fromtimestamp(one["finished_at"], UTC).isoformat(" ", "seconds"),
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


def _write_sent(
    target: str, key: str | None, *, durable: bool, is_new: bool, as_json: bool
) -> None:
    if as_json:
        console.write_json({"answer": None, "new": is_new})
    elif not is_new:
        console.write_line(f"not sent again: {target!r} was sent a message of key {key!r} before")
    else:
        console.write_line("sent, and kept" if durable else "sent")


def _check_answer(target: str, answer: Any) -> None:
    """Refuse an answer that JSON cannot write: a text that looks like one would tell a lie.

    Raises:
        RequestError: it is none; the message says of which type it is, and what to do.
    """
    from actors.results import to_json

    try:
        to_json(answer, f"the answer of {target!r}, of the type {type(answer).__name__!r},")
    except RequestError as error:
        raise RequestError(
            f"{error.message}. The agent has done what it was asked for; in Python, "
            "`await agents.ask(...)` gives the answer as it is",
            code=error.code,
        ) from error


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


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
