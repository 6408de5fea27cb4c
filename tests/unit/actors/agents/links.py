"""The way to a control actor that is a bench in the same process."""

from __future__ import annotations

from typing import Any

from actors.agents.bench import AgentBench
from actors.agents.service import AgentService
from actors.control_link import ControlLink
from ironcliw.errors import IroncliwError


class BenchLink(ControlLink):
    """To a control actor that is a bench.

    Args:
        bench: it.
    """

    def __init__(self, bench: AgentBench) -> None:
        super().__init__()
        self._service = AgentService(bench.system)
        self.away: IroncliwError | None = None

    async def call(self, part: str, method: str, *, repeatable: bool, **arguments: Any) -> Any:
        """See `ControlLink.call`."""
        assert part == "agents" and method in AgentService.METHODS
        if self.away is not None and method == "tell_circuits":
            raise self.away
        return await getattr(self._service, method)(**arguments)
