"""What `ironcliw agents` prints of agents and answers; no I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from actors.results import to_json
from ironcliw.errors import RequestError

CAPABILITY_COLUMNS = (
    "capability",
    "concurrency",
    "idempotent",
    "average ms",
    "recent successes",
    "recent failures",
)


def agent_rows(agent: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each fact about an agent, but for its capabilities."""
    for key, value in agent.items():
        if key == "registered_at":
            yield key, moment(value)
        elif key == "last_restart" and value is not None:
            yield key, f"{moment(value['at'])}, {value['cause']}: {value['reason']}"
        elif key != "capabilities":
            plain = value is None or isinstance(value, str | bool)
            yield key, value if plain else json.dumps(value)


def capability_rows(agent: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """How the messages for each capability fared, as `CAPABILITY_COLUMNS`.

    Of the counts the older half counts less and less, so they are no whole numbers; near enough.
    """
    for name, one in agent["capabilities"].items():
        seconds = one["average_seconds"]
        yield (
            name,
            one["concurrency"],
            one["idempotent"],
            None if seconds is None else seconds * 1000,
            round(one["recent_successes"]),
            round(one["recent_failures"]),
        )


def moment(at: float) -> str:
    """Unix time for people."""
    return datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds")


def sent_line(target: str, key: str | None, *, durable: bool, is_new: bool) -> str:
    """What became of a message whose answer nobody waits for."""
    if not is_new:
        return f"not sent again: {target!r} was sent a message of key {key!r} before"
    return "sent, and kept" if durable else "sent"


def check_answer(target: str, answer: Any) -> None:
    """Refuse an answer that JSON cannot write: a text that looks like it would tell a lie.

    Raises:
        RequestError: it is none; the message says of which type it is, and what to do.
    """
    try:
        to_json(answer, f"the answer of {target!r}, of the type {type(answer).__name__!r},")
    except RequestError as error:
        raise RequestError(
            f"{error.message}. The agent has done what it was asked for; in Python, "
            "`await agents.ask(...)` gives the answer as it is",
            code=error.code,
        ) from error
