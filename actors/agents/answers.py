"""Answers that came after the call which brought the message, until their senders fetch them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from actors.agents.link import HostLostError, Outcome

logger = logging.getLogger(__name__)

COLLECT_SECONDS = 10.0
"""After which a sender that waits for late answers is told that there are none yet."""
FORGET_SECONDS = 60.0
"""A sender that has not asked for so long seems gone: it asks all the time while it waits."""
GONE_SECONDS = 8 * 86_400.0
"""After which it surely is. Until then it may come back, such as a head whose machine slept, and is
told what was not kept; no step asks for longer, and an id takes little room."""


@dataclass(slots=True)
class _Sender:
    seen_at: float
    news: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes: list[tuple[str, Outcome]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    """Ids of messages whose answers were not kept."""


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
        if one.dropped:
            lost, one.dropped = one.dropped, []
            return [(id_, (False, _not_fetched())) for id_ in lost]
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
        """Free what is kept for senders that ask no more; one that comes back is told so."""
        now = self._loop.time()
        for name, one in list(self._senders.items()):
            silent = now - one.seen_at
            if silent > FORGET_SECONDS:
                if one.outcomes:
                    words = "%d answers for %s are dropped: it has not asked for %.0f s"
                    logger.warning(words, len(one.outcomes), name, silent)
                one.dropped += [id_ for id_, _ in one.outcomes]
                one.outcomes.clear()
                if not one.dropped or silent > GONE_SECONDS:
                    del self._senders[name]

    def wake(self) -> None:
        """Have all who wait return: this process ends."""
        for one in self._senders.values():
            one.news.set()

    def _sender(self, name: str) -> _Sender:
        if (one := self._senders.get(name)) is None:
            one = self._senders[name] = _Sender(self._loop.time())
        return one


def _not_fetched() -> HostLostError:
    return HostLostError(
        f"the agent has answered, and the answer was not fetched for {FORGET_SECONDS:g} s: it is "
        "not kept longer"
    )
