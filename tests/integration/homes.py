"""A head as `ironcliw up` starts it, its autoscaler and controller, and a fake cloud.

The machines of the cloud are processes of this machine that really join.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.testing.fake_compute import FakeCompute
from cluster.testing.instances import Timings
from cluster.testing.process_vms import SMALL_NODE, SYSTEM_PATH, ProcessVms
from cluster.testing.world import World

from .conftest import Head

BIN = Path(sys.executable).parent


@dataclass
class Home:
    """A head, and the cloud that it uses."""

    head: Head
    world: World
    vms: ProcessVms

    def live(self) -> list[str]:
        """Machines that the cloud has."""
        with self.world.lock:
            self.world.step()
            return sorted(one.name for one in self.world.instances.values())

    def told(self, name: str, kind: str) -> list[float]:
        """When a machine's agent told of events of a kind on its console, Unix time."""
        lines = self.vms.serial(name).splitlines()
        events: list[dict[str, Any]] = [json.loads(one) for one in lines if one.startswith("{")]
        return [float(event["at"]) for event in events if event["kind"] == kind]

    def logs(self, folder: Path) -> str:
        """For a test that failed."""
        monitor = Path(self.head.environment["IRONCLIW_CLUSTER__TEMP_DIR"]).glob(
            "session_latest/logs/monitor.log"
        )
        logs = [path for path in (folder / "job.log", *monitor) if path.exists()]
        texts = [path.read_text()[-3000:] for path in logs]
        texts += [self.vms.serial(name)[-2000:] for name in self.live()]
        return "\n".join([*texts, self.head.run("status").stdout])


def wait_for(condition: Callable[[], Any], seconds: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what()}")
        time.sleep(0.05)


@contextmanager
def home_in(folder: Path, **settings: str) -> Iterator[Home]:
    """Up and down again, with some settings; a machine that is left behind is an error."""
    world = World(
        timings=Timings(provisioning=0.5, staging=0.5),
        address=lambda count: f"127.0.1.{1 + count % 250}",
    )
    inside = {"PATH": f"{BIN}:{SYSTEM_PATH}", "IRONCLIW_VM_BIN": str(BIN)}
    inside["IRONCLIW_RAY_OPTIONS"] = SMALL_NODE
    with (
        FakeCompute(world) as compute,
        ProcessVms(world, folder / "vms", environment=inside, longest_seconds=1200.0) as vms,
    ):
        head = Head(
            folder,
            IRONCLIW_CLOUD__PROJECT=compute.project,
            IRONCLIW_CLOUD__API_ENDPOINT=compute.url,
            IRONCLIW_CLOUD__VPN="none",
            IRONCLIW_CLOUD__IMAGE_IS_BAKED="true",
            IRONCLIW_CLOUD__NOTICE_SECONDS="30",
            IRONCLIW_BUDGET__MONTH_USD="200",
            IRONCLIW_CLUSTER__NODE_IP="127.0.0.2",
            IRONCLIW_CLUSTER__OBJECT_STORE_BYTES="80000000",
            IRONCLIW_CLUSTER__START_TIMEOUT_SECONDS="450",
            IRONCLIW_SERVE__PINNED_MODELS="[]",
            IRONCLIW_ACTORS__MODULES='["tests.integration.workflow_steps"]',
            # Ray gives its own processes half a minute, which a busy machine may need longer for
            RAY_raylet_start_wait_time_s="200",
            **settings,
        )
        try:
            result = head.run("up", timeout=500)
            assert result.returncode == 0, result.stderr
            home = Home(head, world, vms)
            yield home
            down = head.run("down", timeout=200)
            assert down.returncode == 0, down.stderr
            wait_for(lambda: not home.live(), 90, lambda: f"{home.live()} are left")
        finally:
            head.run("down", timeout=200)
            head.remove()
