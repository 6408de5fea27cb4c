"""How many messages of a lane an agent works on at once, and whether one more may begin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from actors.agents.options import Capability


class Lanes:
    """The lanes of one agent; see `Capability.lane`.

    Args:
        capabilities: of the agent, by name.
    """

    def __init__(self, capabilities: Mapping[str, Capability]) -> None:
        self._capabilities = capabilities
        self._busy: dict[str, int] = {}
        self._plain_holds = 0

    @property
    def all_free(self) -> bool:
        """Whether nothing is worked on and nothing is held."""
        return not self._busy and not self._plain_holds

    def is_free(self, lane: str) -> bool:
        """Whether one more message of a lane may begin."""
        found = self._capabilities.get(lane)
        # what plain methods share is no capability's name
        if self._plain_holds and (not lane or (found is not None and found.plain)):
            return False
        return self._busy.get(lane, 0) < (found.concurrency if found else 1)

    def enter(self, lane: str) -> None:
        """A message of a lane is begun with."""
        self._busy[lane] = self._busy.get(lane, 0) + 1

    def leave(self, lane: str) -> None:
        """One has ended."""
        if (busy := self._busy[lane] - 1) > 0:
            self._busy[lane] = busy
        else:
            del self._busy[lane]

    @contextlib.contextmanager
    def hold_plain(self) -> Iterator[None]:
        """Have no plain method begin meanwhile, whoever else holds them too."""
        self._plain_holds += 1
        try:
            yield
        finally:
            self._plain_holds -= 1

    @property
    def holds_plain(self) -> bool:
        """Whether no plain method may begin."""
        return self._plain_holds > 0
