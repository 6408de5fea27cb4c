"""Sends durable messages to an agent of a head, and notes those that were taken.

    python -m benchmarks.workflow_proof_sender NOTES ACCEPTED FIRST

Run again when its head was lost: a message that nobody has taken is sent again, under its key.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from actors.head_connection import connection
from benchmarks.workflow_proof_work import Receiver, write
from ironcliw.errors import ConflictError, IroncliwError
from ironcliw.settings import load_settings

NAME = "receiver"
_PAUSE_SECONDS = 0.2


async def _send(notes: str, accepted: str, first: int) -> None:
    from actors.agent import Agents  # it imports Ray, which must not happen before `connection`

    async with await Agents.connect() as agents:
        number = first
        while True:
            try:
                if number == first:
                    await _start(agents, notes)
                await agents.send(
                    NAME, number, capability="receive", durable=True, key=f"message-{number}"
                )
            except IroncliwError as error:
                sys.stderr.write(f"message {number}: {error}\n")
            else:
                write(accepted, number=number)
                number += 1
            await asyncio.sleep(_PAUSE_SECONDS)


async def _start(agents: Any, notes: str) -> None:
    try:
        await agents.start(Receiver, name=NAME, notes=notes)
    except ConflictError:
        pass  # it is there, or comes back


def main() -> None:
    """Send until the process is ended."""
    notes, accepted, first = sys.argv[1:]
    with connection(load_settings()):
        asyncio.run(_send(notes, accepted, int(first)))


if __name__ == "__main__":
    main()
