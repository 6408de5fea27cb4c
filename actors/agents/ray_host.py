"""The process of a host: a Ray actor around `Host`.

What supervises it must be answered also while an agent blocks the event loop, so reports are
another concurrency group, which Ray gives a thread and an event loop of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import resource
import sys
import time
from pathlib import Path

import psutil
import ray

from actors.agents.directory import Directory
from actors.agents.host import HandedOver, Host
from actors.agents.messages import Parcel
from actors.agents.pulse import Pulse
from actors.agents.ray_calls import RayRemote
from actors.agents.remote_directory import RemoteDirectory
from actors.agents.reports import AgentReport, HostReport
from actors.agents.snapshots import Snapshots
from actors.agents.spec import AgentSpec
from actors.breaker import OpenCircuit
from actors.control_link import ControlLink
from cluster.handover import Handover
from ironcliw import logs
from ironcliw.errors import ClusterError, IroncliwError
from ironcliw.setting_sections import LogSettings
from ironcliw.settings import process_environment

logger = logging.getLogger(__name__)

SUPERVISION = "supervision"
_LOOP_ANSWERS_SECONDS = 0.5
_GIGABYTE = 1024**3


class HostActor:
    """Runs agents in a process of Ray's.

    Args:
        name: of the host.
        memory_limit_gb: beyond what the process has at its start; None: no limit.
        log: where its logs go.
    """

    async def __init__(self, name: str, memory_limit_gb: float | None, log: LogSettings) -> None:  # type: ignore[misc]
        logs.configure(log)
        self._name = name
        self._loop = asyncio.get_running_loop()
        directory: Directory = RemoteDirectory(ControlLink())
        self._host = Host(name, directory, RayRemote.named)
        self._node = ray.get_runtime_context().get_node_id()
        self._pulse = Pulse(self._loop)
        self._handover = _handover()
        if memory_limit_gb is not None:
            limit_memory(memory_limit_gb)

    async def deliver(self, sender: str, pickled: bytes) -> bytes:
        """See `Remote.deliver`; parcels and outcomes are pickled."""
        outcomes = await self._host.incoming.deliver(sender, pickle.loads(pickled))
        return pickle.dumps(outcomes, protocol=5)

    async def collect(self, sender: str) -> bytes:
        """See `Remote.collect`; the outcomes are pickled."""
        return pickle.dumps(await self._host.incoming.collect(sender), protocol=5)

    async def withdraw(self, message_id: str, seconds: float) -> bool:
        """See `Host.withdraw`."""
        return await self._host.withdraw(message_id, seconds)

    async def start_agent(self, spec: AgentSpec, state: bytes | None) -> IroncliwError | None:
        """See `Host.start_agent`; what it raises comes back as a value, so that it stays itself."""
        try:
            await self._host.start_agent(spec, state)
        except IroncliwError as error:
            return error
        return None

    async def stop_agent(self, name: str, seconds: float) -> bytes | None:
        """See `Host.stop_agent`."""
        return await self._host.stop_agent(name, seconds)

    async def drop_agent(self, name: str, reason: str) -> None:
        """See `Host.drop_agent`."""
        await self._host.drop_agent(name, reason)

    async def hand_over(self, name: str, seconds: float) -> HandedOver:
        """See `Host.hand_over`."""
        return await self._host.hand_over(name, seconds)

    async def hurry(self, seconds: float) -> None:
        """See `Host.hurry`."""
        self._host.hurry(seconds)

    async def snapshots(self, names: list[str], hold_seconds: float = 0.0) -> Snapshots:
        """See `States.take`."""
        return await self._host.states.take(names, hold_seconds)

    async def replay(self, parcels: list[Parcel]) -> None:
        """See `Incoming.replay`."""
        await self._host.incoming.replay(parcels)

    async def circuits(self) -> list[OpenCircuit]:
        """See `Host.circuits`."""
        return self._host.circuits()

    async def released(self) -> None:
        """See `HostHandle.released`."""
        await self._host.incoming.answers_fetched()
        if self._handover is not None:
            self._handover.done(_hook_name())

    @ray.method(concurrency_group=SUPERVISION)
    async def report(self) -> HostReport:
        """How the host fares, also while its event loop stands still."""
        self._pulse.ask()
        asked = asyncio.run_coroutine_threadsafe(self._agents(), self._loop)
        blocked, by, agents = 0.0, None, list[AgentReport]()
        try:
            async with asyncio.timeout(_LOOP_ANSWERS_SECONDS):
                agents = await asyncio.wrap_future(asked)
        except TimeoutError:
            # it may have turned and stand still since, in what it was asked for the report
            blocked = max(self._pulse.still_seconds, _LOOP_ANSWERS_SECONDS)
            by = self._culprit()
        return HostReport(
            self._name,
            self._node,
            os.getpid(),
            psutil.Process().memory_info().rss,
            blocked,
            by,
            agents,
            self._seconds_to_the_end(),
            tuple(self._host.exchange.breakers.open()),
            self._host.threads.lost,
            self._host.threads.wait_seconds,
        )

    async def _agents(self) -> list[AgentReport]:
        return self._host.report()

    def _culprit(self) -> str | None:
        """The agent whose code the event loop is in now."""
        task = asyncio.current_task(self._loop)
        kind, _, name = (task.get_name() if task else "").partition(":")
        return name if kind == "agent" else None

    def _seconds_to_the_end(self) -> float | None:
        notice = self._handover.notice() if self._handover is not None else None
        return None if notice is None else notice.seconds_left(time.time())


def _hook_name() -> str:
    return f"agents-{os.getpid()}"


def _handover() -> Handover | None:
    """The way to the agent of a machine in the cloud, which waits for this process at its end."""
    folder = process_environment().get("IRONCLIW_HANDOVER_DIR")
    if not folder:
        return None
    handover = Handover(Path(folder))
    try:
        handover.register(_hook_name())
    except ClusterError as error:
        # agents still move at a notice; only the machine does not wait for them
        logger.error("the machine's agent does not wait for this host: %s", error)
    return handover


def limit_memory(gigabytes: float) -> None:
    """Have this process get `MemoryError` beyond so much more than it has now. Linux alone."""
    if sys.platform != "linux":
        logger.warning("memory_limit_gb has no effect on %s", sys.platform)
        return
    data = psutil.Process().memory_info().data
    limit = int(data + gigabytes * _GIGABYTE)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
