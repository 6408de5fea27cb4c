"""Theme `actors`: messages between agents, finding them, what they weigh, and durable workflows.

All processes share one machine. Bare Ray actors and tasks, which store nothing and find nobody, are
the peers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import chain

from benchmarks.actors_agents import agent_rows, lookup_rows
from benchmarks.actors_bursts import burst_rows
from benchmarks.actors_cluster import cluster
from benchmarks.actors_crowds import rate_rows, recovery_rows
from benchmarks.actors_messages import message_rows
from benchmarks.actors_workflows import lone_rows
from benchmarks.harness import Options, Row, ThemeResult
from benchmarks.workflow_proof import chaos_rows

logger = logging.getLogger(__name__)

Part = Callable[[Options], list[Row]]
_ON_RAY: dict[str, Part] = {
    "messages": message_rows,
    "workflow": lone_rows,
    "agents": agent_rows,
}
_ALONE: dict[str, Part] = {
    "lookup": lookup_rows,
    "transitions": rate_rows,
    "recovery": recovery_rows,
    "bursts": burst_rows,
    "chaos": chaos_rows,
}
PARTS = (*_ON_RAY, *_ALONE)
"""Those of the first kind share one cluster."""


def run(options: Options) -> ThemeResult:
    """Measure everything, or the parts that are asked for.

    Raises:
        BenchmarkError: a part could not be measured.
    """
    wanted = options.parts or PARTS
    alone = [_measure(name, part, options) for name, part in _ALONE.items() if name in wanted]
    shared: list[list[Row]] = []
    if any(name in wanted for name in _ON_RAY):
        with cluster():
            shared = [
                _measure(name, part, options) for name, part in _ON_RAY.items() if name in wanted
            ]
    return ThemeResult(list(chain(*shared, *alone)), _REMARKS)


def _measure(name: str, part: Part, options: Options) -> list[Row]:
    logger.info("actors: %s", name)
    return part(options)


_MESSAGES = (
    "Messages: a number there and the same number back; delivery is one way, and is late from when "
    "the message was due, whatever became of those before. A bare Ray actor's handle is at hand; "
    "an agent is found by its name."
)
_DURABLE = (
    "Durable: the commit waits for the disk (`synchronous=FULL`; PostgreSQL with `fsync` on). The "
    "disk of a virtual machine may answer sooner than one that could lose its power."
)
_REMARKS = [_MESSAGES, _DURABLE]
