"""A head as `ironcliw up` starts it, with a fake cloud whose machines are processes of this one."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.harness import BenchmarkError
from benchmarks.machine import ROOT
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.instances import Timings
from cluster.testing.ports import free_ports
from cluster.testing.process_vms import SMALL_NODE, SYSTEM_PATH, ProcessVms
from cluster.testing.world import World
from ironcliw.settings import process_environment

_UP_SECONDS = 400
_BIN = Path(sys.executable).parent


@dataclass
class Bed:
    """What a run drives.

    Attributes:
        url: Of the head's HTTP service.
        store: URL of the state store.
    """

    url: str
    store: str
    world: World
    vms: ProcessVms

    def live(self) -> list[str]:
        """Machines that the cloud has."""
        with self.world.lock:
            self.world.step()
            return sorted(one.name for one in self.world.instances.values())

    def wait_until_empty(self, seconds: float) -> None:
        """Until the last machine is gone.

        Raises:
            BenchmarkError: one is still there.
        """
        deadline = time.monotonic() + seconds
        while names := self.live():
            if time.monotonic() > deadline:
                raise BenchmarkError(f"machines {', '.join(names)} are there after {seconds:g} s")
            time.sleep(0.5)


@contextlib.contextmanager
def routed_head(
    folder: Path, *, modules: list[str], policy: str, cpus: int, idle_seconds: float
) -> Iterator[Bed]:
    """Up and down again; ends every process that it started.

    Args:
        folder: For state and logs; empty.
        modules: Where functions of steps are registered.
        policy: Name of the routing policy.
        cpus: Of the head, as Ray books them.
        idle_seconds: After which a machine is given back.

    Raises:
        BenchmarkError: the head did not come up.
    """
    world = World(
        timings=Timings(provisioning=0.5, staging=0.5),
        address=lambda count: f"127.0.1.{1 + count % 250}",
    )
    tag = secrets.token_hex(8)
    inside = {
        "PATH": f"{_BIN}:{SYSTEM_PATH}",
        "IRONCLIW_VM_BIN": str(_BIN),
        "IRONCLIW_RAY_OPTIONS": SMALL_NODE,
    }
    with (
        FakeCompute(world) as compute,
        ProcessVms(world, folder / "vms", environment=inside, longest_seconds=2400.0) as vms,
    ):
        port, gcs, dashboard, metrics, agent = free_ports(5)
        temporary = Path(f"/tmp/icw-rout-{port}")  # short: it becomes part of a socket's path
        state = folder / "state"
        variables = {
            "IRONCLIW_STATE_DIR": str(state),
            "IRONCLIW_SERVE__PORT": str(port),
            "IRONCLIW_SERVE__PINNED_MODELS": "[]",
            "IRONCLIW_CLUSTER__GCS_PORT": str(gcs),
            "IRONCLIW_CLUSTER__DASHBOARD_PORT": str(dashboard),
            "IRONCLIW_CLUSTER__METRICS_PORT": str(metrics),
            "IRONCLIW_CLUSTER__AGENT_PORT": str(agent),
            "IRONCLIW_CLUSTER__TEMP_DIR": str(temporary),
            "IRONCLIW_CLUSTER__START_TIMEOUT_SECONDS": str(_UP_SECONDS),
            "IRONCLIW_CLUSTER__NODE_IP": "127.0.0.2",
            "IRONCLIW_CLUSTER__NUM_CPUS": str(cpus),
            "IRONCLIW_CLUSTER__OBJECT_STORE_BYTES": "80000000",
            "IRONCLIW_CLOUD__PROJECT": compute.project,
            "IRONCLIW_CLOUD__API_ENDPOINT": compute.url,
            "IRONCLIW_CLOUD__VPN": "none",
            "IRONCLIW_CLOUD__IMAGE_IS_BAKED": "true",
            "IRONCLIW_CLOUD__IDLE_MINUTES": str(idle_seconds / 60),
            "IRONCLIW_BUDGET__MONTH_USD": "200",
            "IRONCLIW_ACTORS__MODULES": json.dumps(modules),
            "IRONCLIW_ROUTING__POLICY": policy,
            # Ray gives its own processes half a minute, which a busy machine may need longer for
            "RAY_raylet_start_wait_time_s": "200",
        }
        environment = process_environment(**variables, **{processes.TAG: tag})
        try:
            _run(folder, environment, "up")
            store = f"sqlite:///{state / 'state.db'}"
            yield Bed(f"http://127.0.0.1:{port}", store, world, vms)
        finally:
            with contextlib.suppress(BenchmarkError, subprocess.TimeoutExpired):
                _run(folder, environment, "down")
            processes.kill_members(tag)
            shutil.rmtree(temporary, ignore_errors=True)


def _run(folder: Path, environment: dict[str, str], word: str) -> None:
    log = folder / f"{word}.log"
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", "ironcliw.cli", word],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=_UP_SECONDS + 50,
        )
    if done.returncode != 0:
        text = log.read_text(encoding="utf-8", errors="replace")
        raise BenchmarkError(f"`ironcliw {word}` failed: {text[-2000:]}")
