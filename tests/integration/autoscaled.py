"""A Ray head with the second autoscaler, a fake cloud, and VMs that are processes here.

All of it on loopback: the head has 127.0.0.2 (Ray takes 127.0.0.1 for "no address given"), the VMs
have addresses from 127.0.1.1 on.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cluster.events import EventLog
from cluster.head.autoscaling import autoscaler_environment, autoscaler_options
from cluster.head.processes import end_processes
from cluster.head.ray_environment import client_environment, head_environment, token_path
from cluster.head.record import ensure_token
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import Fault
from cluster.testing.instances import Timings
from cluster.testing.process_vms import SYSTEM_PATH, ProcessVms
from cluster.testing.world import Call, World
from ironcliw.settings import Settings, load_settings
from ironcliw.store import Store

from .conftest import ROOT, free_ports

HEAD_ADDRESS = "127.0.0.2"
BIN = Path(sys.executable).parent
# Ray asks for 75 MB at the least
_STORE_BYTES = 80_000_000


@dataclass
class Autoscaled:
    """What a test drives and looks at."""

    settings: Settings
    world: World
    compute: FakeCompute
    vms: ProcessVms
    session: str
    environment: dict[str, str]
    controller: subprocess.Popen[bytes]
    drivers: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{HEAD_ADDRESS}:{self.settings.cluster.gcs_port}"

    def driver(self, program: str) -> subprocess.Popen[str]:
        """Starts a program that has joined the cluster already."""
        start = f"address={self.address!r}, log_to_driver=False, logging_level='ERROR'"
        driver = subprocess.Popen(
            [sys.executable, "-c", f"import ray\nray.init({start})\n{program}"],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.drivers.append(driver)
        return driver

    def told(self, *kinds: str) -> list[str]:
        """Messages of events, oldest first."""
        with Store(self.settings.store_url) as store:
            events = EventLog(store).recent(100, kinds or None)
        return [event.message for event in reversed(events)]

    def live(self) -> list[str]:
        """Machines that the cloud has."""
        with self.world.lock:
            self.world.step()
            return sorted(each.name for each in self.world.instances.values())

    def inserts(self) -> list[Call]:
        """The calls that ordered a machine."""
        with self.world.lock:
            return [
                one
                for one in self.world.calls
                if one.path.endswith("/instances") and one.verb == "POST"
            ]

    def insert_path(self, zone: str) -> str:
        return f"/compute/v1/projects/{self.compute.project}/zones/{zone}/instances"

    def monitor(self) -> psutil.Process | None:
        """The autoscaler's process."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                port = f"--gcs-address={self.address}"
                if any(word.endswith("autoscaler/v2/monitor.py") for word in line) and port in line:
                    return process
        return None

    def logs(self) -> str:
        """For a test that failed: the end of the monitor's log and the VMs' consoles."""
        texts = [
            path.read_text(encoding="utf-8", errors="replace")[-6000:]
            for path in self.settings.ray_temp_dir.glob("session_latest/logs/monitor.*")
        ]
        log = self.settings.state_dir / "controller.log"
        texts.append(log.read_text(encoding="utf-8", errors="replace")[-3000:])
        texts += [self.vms.serial(name)[-3000:] for name in self.live()]
        return "\n".join(texts)

    def wait_for(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """The condition's first true value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.05)
        raise AssertionError(f"{what}: not within {seconds} s\n{self.logs()}")


@contextlib.contextmanager
def autoscaled(
    folder: Path, *faults: Fault, cloud: dict[str, Any] | None = None, **budget: Any
) -> Iterator[Autoscaled]:
    """Starts everything, and leaves nothing behind."""
    world = World(
        timings=Timings(provisioning=0.5, staging=0.5),
        faults=faults,
        address=lambda count: f"127.0.1.{1 + count % 250}",
    )
    environment = {"PATH": f"{BIN}:{SYSTEM_PATH}", "IRONCLIW_VM_BIN": str(BIN)}
    environment["IRONCLIW_RAY_OPTIONS"] = f"--object-store-memory={_STORE_BYTES}"
    with (
        FakeCompute(world) as compute,
        ProcessVms(world, folder / "vms", environment=environment, longest_seconds=100.0) as vms,
    ):
        settings = _settings(folder, compute, cloud or {}, budget)
        session = f"autoscaled-{settings.cluster.gcs_port}"
        variables = _environment(settings, session)
        cluster: Autoscaled | None = None
        try:
            _start(settings, variables)
            controller = start_controller(settings, variables)
            cluster = Autoscaled(settings, world, compute, vms, session, variables, controller)
            yield cluster
        finally:
            end_processes(session)
            if cluster is not None:
                controller.wait(timeout=10)
                for driver in cluster.drivers:
                    driver.kill()
                    driver.wait()
                    if driver.stdout is not None:
                        driver.stdout.close()
            shutil.rmtree(settings.ray_temp_dir, ignore_errors=True)


def start_controller(settings: Settings, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """As the supervisor of a head does."""
    with (settings.state_dir / "controller.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.control.controller"],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(settings))
    process.stdin.close()
    return process


def _settings(
    folder: Path, compute: FakeCompute, cloud: dict[str, Any], budget: dict[str, Any]
) -> Settings:
    (gcs,) = free_ports(1)
    settings = load_settings()
    cluster = settings.cluster.model_copy(
        update={"node_ip": HEAD_ADDRESS, "gcs_port": gcs, "temp_dir": Path(f"/tmp/icw-as-{gcs}")}
    )
    changes = {
        "vpn": "none",
        "image_is_baked": True,
        "idle_minutes": 0.1,
        "join_seconds": 60.0,
        "notice_seconds": 0,
        **cloud,
    }
    money = settings.budget.model_copy(update={"month_usd": 200.0, **budget})
    settings = settings.model_copy(
        update={
            "state_dir": folder / "state",
            "cluster": cluster,
            "cloud": compute.cloud(**changes),
            "budget": money,
        }
    )
    ensure_token(token_path(settings))
    return settings


def _environment(settings: Settings, session: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("IRONCLIW_", "RAY_"))}
    return {
        **clean,
        **client_environment(settings),
        **head_environment(settings, session),
        **autoscaler_environment(settings),
        "IRONCLIW_STATE_DIR": str(settings.state_dir),
        "PATH": f"{BIN}:{SYSTEM_PATH}",
    }


def _start(settings: Settings, environment: dict[str, str]) -> None:
    command = [
        str(BIN / "ray"),
        "start",
        "--head",
        f"--node-ip-address={HEAD_ADDRESS}",
        f"--port={settings.cluster.gcs_port}",
        f"--temp-dir={settings.ray_temp_dir}",
        f"--object-store-memory={_STORE_BYTES}",
        "--num-cpus=1",
        "--include-dashboard=false",
        "--disable-usage-stats",
        *autoscaler_options(settings),
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
