"""A private Ray with the agents' part of a control actor, driven line by line over a pipe.

Run as `python -m tests.integration.agents_driver TEMPORARY STORE_URL`; without arguments it joins
the head that its environment tells of. Ray's own warnings are no concern of the tests that drive
it, and one process can have Ray but once.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import ray

from actors.agents.client import Agents
from actors.agents.ray_hosts import RayHosts
from actors.agents.records import JournalStore
from actors.agents.service import AgentService
from actors.agents.system import AgentSystem
from actors.control_link import NAME, NAMESPACE
from actors.head_connection import connection
from actors.journal import Journal
from ironcliw.errors import IroncliwError
from ironcliw.setting_sections import LogSettings
from ironcliw.settings import load_settings
from ironcliw.store import Store


class Control:
    """Answers as the control actor does, about agents alone."""

    async def __init__(self, url: str) -> None:  # type: ignore[misc]
        store = Store(url)
        store.migrate()
        self.store = JournalStore(Journal(store))
        self.system = AgentSystem(self.store, RayHosts(LogSettings()))
        self.service = AgentService(self.system)
        await self.system.start()

    async def answer(
        self, part: str, method: str, arguments: Mapping[str, Any]
    ) -> tuple[IroncliwError | None, Any]:
        assert part == "agents" and method in self.service.METHODS
        try:
            return None, await getattr(self.service, method)(**arguments)
        except IroncliwError as error:
            return error, None

    async def leave(self, node: str, seconds: float) -> None:
        await self.system.node_leaving(node, time.time() + seconds)

    async def pid(self) -> int:
        return os.getpid()

    async def snapshot(self, name: str) -> str:
        return (await self.store.snapshot(name) or b"").decode()

    async def durable_on_the_way(self) -> int:
        return self.system.durable_on_the_way


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def serve(control: Any) -> None:
    """Carry out what comes on standard input; many at once."""
    tasks = set()
    loop = asyncio.get_running_loop()
    async with await Agents.connect() as agents:

        async def answer(id_: int, kind: str, method: str, words: list[Any], named: Any) -> None:
            try:
                if kind == "control":
                    outcome = [True, await getattr(control, method).remote(*words)]
                else:
                    outcome = [True, await getattr(agents, method)(*words, **named)]
            except IroncliwError as error:
                outcome = [False, [type(error).__name__, str(error)]]
            say("ANSWER", json.dumps([id_, outcome], default=str))

        say("READY")
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            tasks.add(asyncio.create_task(answer(*json.loads(line))))


def main() -> None:
    """Until standard input ends."""
    if len(sys.argv) == 1:
        with connection(load_settings()):
            asyncio.run(serve(None))
        return
    temporary, url = sys.argv[1:]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        namespace=NAMESPACE,
        object_store_memory=80_000_000,
        _temp_dir=temporary,
    )
    options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "max_restarts": -1}
    made: Any = ray.remote(Control).options(num_cpus=0, max_concurrency=1000, **options)  # type: ignore[call-overload]
    asyncio.run(serve(made.remote(url)))
    ray.shutdown()


if __name__ == "__main__":
    main()
