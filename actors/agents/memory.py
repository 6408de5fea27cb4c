"""What the registry has told a process, remembered for a moment.

While an answer is used it is asked for anew before it is too old, so that messages do not wait for
the registry each second. One question at a time is on its way about each name: a thousand messages
that find an answer too old would otherwise ask a thousand times.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from actors.agents.directory import Directory, Listing
from actors.selection import Candidate
from ironcliw.errors import IroncliwError, NotFoundError, UnavailableError

REMEMBER_SECONDS = 1.0
"""How long an answer of the registry is used again. One that proved wrong is forgotten at once."""
RENEW_SECONDS = 0.75
"""One that is older than this, and used, is asked for anew."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[_Answer]):
    answer: _Answer
    since: float


class Answers(Generic[_Answer]):
    """Answers to one question about many names.

    Args:
        ask: the question; name -> answer.
        clock: monotonic seconds.
    """

    def __init__(
        self, ask: Callable[[str], Awaitable[_Answer]], clock: Callable[[], float]
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._kept: dict[str, _Kept[_Answer]] = {}
        self._questions: dict[str, asyncio.Task[_Answer | IroncliwError]] = {}

    def known(self, name: str) -> _Answer | None:
        """The answer about a name that is remembered, if there is one."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        age = self._clock() - kept.since
        if age >= RENEW_SECONDS and name not in self._questions:
            self._begin(name)
        return kept.answer if age < REMEMBER_SECONDS else None

    async def about(self, name: str) -> _Answer:
        """The answer about a name, remembered or new.

        Raises:
            IroncliwError: what the question raises.
        """
        if (known := self.known(name)) is not None:
            return known
        question = self._questions.get(name) or self._begin(name)
        # it is others' question, too: whoever gives up does not take it back
        answer = await asyncio.shield(question)
        if isinstance(answer, IroncliwError):
            # one each: a traceback would otherwise grow with every waiter
            raise copy.copy(answer) from answer.__cause__
        return answer

    def _begin(self, name: str) -> asyncio.Task[_Answer | IroncliwError]:
        question = asyncio.get_running_loop().create_task(self._question(name))
        self._questions[name] = question
        return question

    async def _question(self, name: str) -> _Answer | IroncliwError:
        answer: _Answer | IroncliwError
        try:
            answer = await self._ask(name)
        except IroncliwError as error:  # nobody may wait for it
            answer = error
        finally:
            wanted = self._questions.get(name) is asyncio.current_task()
            if wanted:
                self.forget(name)
        if wanted and not isinstance(answer, IroncliwError):
            self.learn(name, answer)
        return answer

    def learn(self, name: str, answer: _Answer) -> None:
        """Remember an answer."""
        self._kept[name] = _Kept(answer, self._clock())

    def forget(self, name: str) -> None:
        """An answer proved wrong; one that is on its way may be as old."""
        self._kept.pop(name, None)
        self._questions.pop(name, None)


class Memory:
    """Answers of the registry, kept for a moment.

    Args:
        directory: the registry.
        clock: monotonic seconds.
    """

    def __init__(self, directory: Directory, clock: Callable[[], float] = time.monotonic) -> None:
        self.directory = directory
        self._clock = clock
        self._listings = Answers(self._listing, clock)
        self._topics = Answers(directory.subscribers, clock)

    async def look_up(
        self, target: str, wait_seconds: float = 0.0, *, unknown_seconds: float = 0.0
    ) -> Listing:
        """As `Directory.look_up`, perhaps a moment old."""
        asked = self._clock()
        try:
            return await self._listings.about(target)
        except (NotFoundError, UnavailableError) as error:
            # who waits, and how long, is each one's own affair
            passed = self._clock() - asked
            wait, unknown = (max(0.0, one - passed) for one in (wait_seconds, unknown_seconds))
            if not (unknown if isinstance(error, NotFoundError) else wait):
                raise
        found = await self.directory.look_up(target, wait, unknown_seconds=unknown)
        self._listings.learn(target, found)
        return found

    async def _listing(self, target: str) -> Listing:
        return await self.directory.look_up(target, 0.0, unknown_seconds=0.0)

    async def subscribers(self, topic: str) -> tuple[Candidate, ...]:
        """As `Directory.subscribers`, perhaps a moment old."""
        return await self._topics.about(topic)

    def forget(self, target: str) -> None:
        """An answer proved wrong."""
        self._listings.forget(target)

    def forget_topic(self, topic: str) -> None:
        """Somebody here has subscribed or left."""
        self._topics.forget(topic)
