"""A Ray of this machine's own with the control actor on it, for theme `actors`."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray

from actors.agent import Agents
from actors.control_link import NAMESPACE
from actors.service import start
from benchmarks.processes import pss_bytes
from cluster.testing.ports import free_ports
from ironcliw.settings import Settings, export_environment, load_settings

T = TypeVar("T")
CPUS = 8
"""What Ray is told there are: steps book a quarter each, and no figure here is about computing."""


@contextmanager
def cluster() -> Iterator[Settings]:
    """Runs Ray and the control actor for the time of the block; this process is its driver."""
    with tempfile.TemporaryDirectory(prefix="icw-bench-") as name:
        folder = Path(name)
        gcs, dashboard = free_ports(2)
        settings = load_settings(
            state_dir=folder / "state",
            cluster={"gcs_port": gcs, "dashboard_port": dashboard},
            actors={"modules": ["benchmarks.actors_work"]},
            routing={"log_decisions": False},
        )
        settings.state_dir.mkdir(mode=0o700)
        token = folder / "token"
        token.write_text(secrets.token_hex(32), encoding="ascii")
        # Ray turns token authentication on by itself, and would write one to the home folder
        export_environment({"RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"})
        ray.init(
            num_cpus=CPUS,
            namespace=NAMESPACE,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100_000_000,
            _temp_dir=str(folder / "ray"),
        )
        try:
            start(settings)
            yield settings
        finally:
            ray.shutdown()


def with_agents(work: Callable[[Agents], Awaitable[T]]) -> T:
    """Runs a coroutine that has the cluster's agents at hand."""

    async def run() -> T:
        async with await Agents.connect() as agents:
            return await work(agents)

    return asyncio.run(run())


def control_pid() -> int:
    """The process of the control actor."""
    import psutil

    for process in psutil.process_iter():
        if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Control"):
            return int(process.pid)
    raise AssertionError("the control actor has a process")


def memory_of(*pids: int) -> int:
    """PSS of processes, without their children, in bytes."""
    return pss_bytes(pids)


def bare(cls: type, *arguments: Any) -> Any:
    """A Ray actor that takes many calls at once and books no processor."""
    from benchmarks.actors_work import CONCURRENCY

    remote: Any = ray.remote(cls)
    return remote.options(num_cpus=0, max_concurrency=CONCURRENCY + 10).remote(*arguments)
