"""Answers that came after the call which brought the message, until their senders fetch them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from actors.agents.link import Outcome

COLLECT_SECONDS = 10.0
"""After which a sender that waits for late answers is told that there are none yet."""
FORGET_SECONDS = 60.0
"""A sender that has not asked for so long is gone: it asks all the time while it waits."""


@dataclass(slots=True)
class _Sender:
    seen_at: float
    news: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes: list[tuple[str, Outcome]] = field(default_factory=list)


class LateAnswers:
    """Keeps late answers, by sender."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._senders: dict[str, _Sender] = {}

    def keep(self, sender: str, message_id: str, outcome: Outcome) -> None:
        """An answer is there."""
        one = self._sender(sender)
        one.outcomes.append((message_id, outcome))
        one.news.set()

    async def collect(self, sender: str) -> list[tuple[str, Outcome]]:
        """See `Remote.collect`."""
        one = self._sender(sender)
        one.seen_at = self._loop.time()
        if not one.outcomes:
            one.news.clear()
            try:
                async with asyncio.timeout(COLLECT_SECONDS):
                    await one.news.wait()
            except TimeoutError:
                return []
        found, one.outcomes = one.outcomes, []
        return found

    @property
    def waiting(self) -> bool:
        """Whether there are some that nobody has fetched."""
        return any(one.outcomes for one in self._senders.values())

    def forget_the_gone(self) -> None:
        """Free what is kept for senders that ask no more."""
        old = self._loop.time() - FORGET_SECONDS
        for name in [name for name, one in self._senders.items() if one.seen_at < old]:
            del self._senders[name]

    def wake(self) -> None:
        """Have all who wait return: this process ends."""
        for one in self._senders.values():
            one.news.set()

    def _sender(self, name: str) -> _Sender:
        if (one := self._senders.get(name)) is None:
            one = self._senders[name] = _Sender(self._loop.time())
        return one
