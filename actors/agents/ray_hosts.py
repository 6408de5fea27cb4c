"""Starts hosts as detached Ray actors, and finds them again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

from actors.agents.code_copies import CodeCopies
from actors.agents.host import HandedOver
from actors.agents.hosts import HostHandle, HostPlan
from actors.agents.link import HostLostError, Remote
from actors.agents.messages import Parcel
from actors.agents.ray_calls import RayRemote, answer_of
from actors.agents.ray_host import SUPERVISION, HostActor
from actors.agents.reports import HostReport
from actors.agents.snapshots import Snapshots
from actors.agents.spec import AgentSpec
from actors.background import keep_going
from actors.breaker import OpenCircuit
from actors.control_link import NAMESPACE
from cluster.config import GROUP_LABEL, SPOT_TYPE
from cluster.head import project_code
from ironcliw.errors import ClusterError, UnavailableError
from ironcliw.setting_sections import LogSettings

logger = logging.getLogger(__name__)

PREFIX = "agents-"
_HOME_SECONDS = 60.0
_CLOUD_SECONDS = 600.0
"""A machine in the cloud may have to be launched first."""
_FIND_SECONDS = 10.0
"""For a host of an earlier system to say that it is there."""
_RENEW_SECONDS = 60.0
_ON_HEAD = {"node:__internal_head__": 0.001}
_CALLS = 10_000
"""Calls of a host that are open at once: each of its senders keeps one or two."""
_GIGABYTE = 1024**3


class RayHosts:
    """Hosts as Ray actors.

    Args:
        log: where the hosts' logs go.
        cloud_code: archives that a process on a machine in the cloud needs.
        copies: keeps what agents were started with; None: it ends with the head.
    """

    def __init__(
        self,
        log: LogSettings,
        cloud_code: Sequence[str] = (),
        copies: CodeCopies | None = None,
    ) -> None:
        self._log = log
        self._cloud_code = tuple(cloud_code)
        self._copies = copies
        self._code: set[str] = set()
        self._keeper: asyncio.Task[None] | None = None

    async def launch(self, plan: HostPlan) -> HostHandle:
        """See `Hosts.launch`."""
        await self._hold(set(_packages(plan.environment)))
        options = _ray_options(plan, self._cloud_code)
        limit = plan.options.memory_limit_gb if plan.options else None
        actor = _actor_class().options(**options).remote(plan.name, limit, self._log)
        patience = _CLOUD_SECONDS if plan.place == "spot" else _HOME_SECONDS
        handle = RayHandle(plan.name, actor)
        try:
            async with asyncio.timeout(patience):
                await handle.introduce()
        except (TimeoutError, UnavailableError) as error:
            await handle.kill()
            raise UnavailableError(
                f"no process for agents of place {plan.place!r} could be started within "
                f"{patience:g} s ({error or 'Ray found no machine for it'}); see `ironcliw status` "
                "for machines, and the head's logs",
                retry_after=5.0,
            ) from error
        except BaseException:  # cancelled, too: it would wait for a machine, and have one bought
            await asyncio.shield(handle.kill())
            raise
        return handle

    async def find(self) -> list[HostHandle]:
        """See `Hosts.find`."""
        named = await asyncio.to_thread(list_named_actors, True)
        names = [one["name"] for one in named if one["namespace"] == NAMESPACE]
        handles = [RayHandle(name) for name in names if name.startswith(PREFIX)]
        # all at once: agents and workflows wait for this
        answers = await asyncio.gather(*map(_is_up, handles))
        return [handle for handle, is_up in zip(handles, answers, strict=True) if is_up]

    def keep_code(self, environment: Mapping[str, Any]) -> None:
        """See `Hosts.keep_code`: Ray deletes code that no process uses, and agents restart."""
        self._code.update(_packages(environment))
        if self._copies is not None:
            for uri in _packages(environment):
                try:
                    self._copies.touch(uri)
                except OSError as error:  # at the next round of `_keep` it is tried again
                    logger.warning("the copy of the code %s is not touched: %s", uri, error)
        if self._code and self._keeper is None:
            self._keeper = asyncio.create_task(keep_going("the holding of code", self._keep))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            await self._hold(self._code)

    async def _hold(self, code: Iterable[str]) -> None:
        hold = project_code.hold if self._copies is None else self._copies.hold
        for uri in sorted(code):
            try:
                await asyncio.to_thread(hold, uri)
            except (RuntimeError, RayError, OSError, ClusterError) as error:
                # the control service restarts; at the next round it is there again
                logger.warning("the code %s is not held for now: %s", uri, error)

    def connect(self, host: str) -> Remote:
        """See `Hosts.connect`."""
        return RayRemote(host)


class RayHandle(RayRemote):
    """A host's actor, as its supervisor sees it."""

    node = ""
    pid = 0

    async def introduce(self) -> None:
        """Have it say where it is; to be awaited before it is of use."""
        report = await self.report()
        self.node, self.pid = report.node, report.pid

    async def withdraw(self, message_id: str, seconds: float) -> bool:
        """See `HostHandle.withdraw`."""
        found: bool = await self._call("withdraw", message_id, seconds)
        return found

    async def start_agent(self, spec: AgentSpec, state: bytes | None) -> None:
        """See `HostHandle.start_agent`."""
        error = await self._call("start_agent", spec, state)
        if error is not None:
            raise error

    async def stop_agent(self, name: str, seconds: float) -> bytes | None:
        """See `HostHandle.stop_agent`."""
        state: bytes | None = await self._call("stop_agent", name, seconds)
        return state

    async def drop_agent(self, name: str, reason: str) -> None:
        """See `HostHandle.drop_agent`."""
        await self._call("drop_agent", name, reason)

    async def hand_over(self, name: str, seconds: float) -> HandedOver:
        """See `HostHandle.hand_over`."""
        found: HandedOver = await self._call("hand_over", name, seconds)
        return found

    async def hurry(self, seconds: float) -> None:
        """See `HostHandle.hurry`."""
        await self._call("hurry", seconds)

    async def snapshots(self, names: list[str], hold_seconds: float = 0.0) -> Snapshots:
        """See `HostHandle.snapshots`."""
        found: Snapshots = await self._call("snapshots", names, hold_seconds)
        return found

    async def replay(self, parcels: list[Parcel]) -> None:
        """See `HostHandle.replay`."""
        await self._call("replay", parcels)

    async def report(self) -> HostReport:
        """See `HostHandle.report`."""
        found: HostReport = await self._call("report")
        return found

    async def circuits(self) -> list[OpenCircuit]:
        """See `HostHandle.circuits`."""
        found: list[OpenCircuit] = await self._call("circuits")
        return found

    async def released(self) -> None:
        """See `HostHandle.released`."""
        await self._call("released")

    async def kill(self) -> None:
        """See `HostHandle.kill`."""
        try:
            actor = await self.actor()
            await asyncio.to_thread(ray.kill, actor)
        except HostLostError:
            return
        except RayError as error:
            logger.warning("host %s could not be killed: %s", self.name, error)

    async def _call(self, method: str, *arguments: Any) -> Any:
        actor = await self.actor()
        return await answer_of(getattr(actor, method).remote(*arguments))


async def _is_up(handle: RayHandle) -> bool:
    """Whether a host says where it is; one that does not is ended, such as one without a machine.

    A host that blocks says so at once.
    """
    try:
        async with asyncio.timeout(_FIND_SECONDS):
            await handle.introduce()
    except (TimeoutError, UnavailableError) as error:
        logger.warning("host %s is not taken up: %s", handle.name, str(error) or "no answer")
        await handle.kill()
        return False
    return True


def _packages(environment: Mapping[str, Any]) -> Iterator[str]:
    for uri in (environment.get("working_dir"), *environment.get("py_modules", ())):
        if isinstance(uri, str) and uri.startswith("gcs://"):
            yield uri


def _actor_class() -> Any:
    options: dict[str, Any] = {
        "concurrency_groups": {SUPERVISION: 4},
        "max_concurrency": _CALLS,
    }
    return ray.remote(**options)(HostActor)


def _ray_options(plan: HostPlan, cloud_code: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "name": plan.name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "num_cpus": 0,
        # who starts it again is the supervisor, which knows its agents and their states
        "max_restarts": 0,
        "max_task_retries": 0,
    }
    environment = dict(plan.environment)
    if plan.place == "spot":
        options["label_selector"] = {GROUP_LABEL: SPOT_TYPE}
        # what a machine is launched for
        memory = plan.options.memory_gb if plan.options else 1.0
        options["memory"] = int(memory * _GIGABYTE)
        environment["py_modules"] = [*cloud_code, *environment.get("py_modules", ())]
    else:
        options["resources"] = _ON_HEAD
    if environment:
        options["runtime_env"] = environment
    return options
