"""One message in the hands of an agent: how long it may take, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from actors.agents.jobs import Job
from actors.agents.reports import Tally
from ironcliw.errors import AgentError, DeadlineExceededError, IroncliwError, UnavailableError


async def call(job: Job, work: Awaitable[Any]) -> Any:
    """What an agent's coroutine answers, or `DeadlineExceededError` at the job's limit."""
    limit = asyncio.timeout_at(job.limit)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired() or job.limit is None:  # the agent's own
            raise
        raise DeadlineExceededError(
            f"{job.capability.name!r} took longer than the {job.limit - job.started:.2g} s that it "
            "had, and was broken off"
        ) from None
    except SystemExit as error:
        # it would end the event loop, and every agent on it
        raise AgentError(
            f"{job.capability.name!r} called sys.exit({error.code!r})", code="agent_broken"
        ) from None


def what_it_raised(
    future: asyncio.Future[Any], job: Job, agent: str, memory_limit_gb: float | None = None
) -> IroncliwError | None:
    """The error that the asker is told; None: there was none.

    An error with the code "agent_broken" says that the agent itself is of no use any more.

    Args:
        future: what it did.
        job: what it was to do.
        agent: its name.
        memory_limit_gb: beyond which it gets no memory.
    """
    if future.cancelled():
        return job.instead or UnavailableError(
            f"agent {agent!r} was stopped while it worked on {job.capability.name!r}",
            code="agent_lost",
        )
    error = future.exception()
    if error is None or isinstance(error, IroncliwError):
        return error
    # what is raised need not be known to the asker's process, so it goes as text
    text = f"agent {agent!r}: {job.capability.name!r} raised {named(error)}"
    if isinstance(error, MemoryError):
        text += (
            "; it has no memory_limit_gb, so its machine gives no more"
            if memory_limit_gb is None
            else f"; its memory_limit_gb is {memory_limit_gb:g}"
        )
    broken = isinstance(error, MemoryError) or not isinstance(error, Exception)
    failed = AgentError(text, code="agent_broken" if broken else None)
    failed.__cause__ = error
    return failed


def named(error: BaseException) -> str:
    """An error's type and what it says, if anything."""
    said = str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def too_late(agent: str, why: str) -> DeadlineExceededError:
    """What the asker of a message is told whose deadline has passed.

    Args:
        agent: its name.
        why: it did not answer in time.
    """
    return DeadlineExceededError(f"agent {agent!r} did not answer in time: {why}")


def is_failure(error: BaseException | None) -> bool:
    """Whether an error speaks against the agent; those that the sender can mend do not."""
    if error is None:
        return False
    return not isinstance(error, IroncliwError) or error.kind != "invalid_request_error"


@dataclass(slots=True)
class Tallies:
    """What became of an agent's messages since somebody asked last."""

    _found: dict[str, Tally] | None = None

    def count(self, job: Job, now: float, error: BaseException | None) -> None:
        """One more is dealt with."""
        if self._found is None:
            self._found = {}
        name = job.capability.name
        if (tally := self._found.get(name)) is None:
            tally = self._found[name] = Tally()
        failed = is_failure(error)
        tally.add(
            now - job.started,
            failed=failed,
            late=isinstance(error, DeadlineExceededError),
            rejected=error is not None and not failed,
        )

    def take(self) -> dict[str, Tally]:
        """All of it; the counts begin anew."""
        found, self._found = self._found, None
        return found or {}
