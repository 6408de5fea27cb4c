"""A whole cluster without a cloud: a Ray head, its autoscaler, our controller, VMs as processes.

    with bed(folder, Stockout(zone="us-central1-a")) as cluster:
        driver = cluster.driver("print(ray.get(work.remote()))")
        (name,) = cluster.wait_for(cluster.live, 60, "a machine")

All of it on loopback: the head has 127.0.0.2 (Ray takes 127.0.0.1 for "no address given"), the VMs
have addresses from 127.0.1.1 on. There is no service and no supervisor: `ironcliw up` starts those.
Linux alone lends a process an address of 127.0.0.0/8 without asking.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
from cluster.testing.ports import free_ports
from cluster.testing.process_vms import SMALL_NODE, SYSTEM_PATH, ProcessVms
from cluster.testing.world import Call, World
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings, load_settings, process_environment
from ironcliw.store import Store

HEAD_ADDRESS = "127.0.0.2"
BIN = Path(sys.executable).parent


@dataclass
class Bed:
    """What a test drives and looks at.

    Attributes:
        settings: Of the cluster.
        world: The cloud's state.
        compute: The cloud's API.
        vms: The machines with power.
        session: Marks the processes of the head.
        environment: Of whoever joins as a driver.
        controller: The process beside the head.
        drivers: The programs that were started.
    """

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

    def driver(
        self, program: str, runtime_env: Mapping[str, Any] | None = None
    ) -> subprocess.Popen[str]:
        """Starts a program that has joined the cluster already; a job brings its `runtime_env`."""
        start = f"address={self.address!r}, log_to_driver=False, logging_level='ERROR'"
        if runtime_env is not None:
            start += f", runtime_env={dict(runtime_env)!r}"
        driver = subprocess.Popen(
            [sys.executable, "-c", f"import ray\nray.init({start})\n{program}"],
            env=self.environment,
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

    def monitor_log(self) -> str:
        """What the autoscaler wrote."""
        logs = sorted(self.settings.ray_temp_dir.glob("session_latest/logs/monitor.*"))
        return "\n".join(log.read_text(encoding="utf-8", errors="replace") for log in logs)

    def logs(self) -> str:
        """For a failure: the events, the ends of the logs and the VMs' consoles."""
        texts = ["\n".join(self.told()), self.monitor_log()[-9000:]]
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
def bed(
    folder: Path,
    *faults: Fault,
    cloud: Mapping[str, Any] | None = None,
    timings: Timings | None = None,
    longest_seconds: float = 100.0,
    **budget: Any,
) -> Iterator[Bed]:
    """Starts everything, and leaves nothing behind.

    Args:
        folder: For the state and the files of the VMs.
        faults: What goes wrong.
        cloud: Changes to the settings of section `cloud`.
        timings: Of the cloud; by default a machine runs a second after it was ordered.
        longest_seconds: After so much time every VM is turned off.
        budget: Changes to the settings of section `budget`.
    """
    world = World(
        timings=timings or Timings(provisioning=0.5, staging=0.5),
        faults=faults,
        address=lambda count: f"127.0.1.{1 + count % 250}",
    )
    environment = {"PATH": f"{BIN}:{SYSTEM_PATH}", "IRONCLIW_VM_BIN": str(BIN)}
    environment["IRONCLIW_RAY_OPTIONS"] = SMALL_NODE
    with (
        FakeCompute(world) as compute,
        ProcessVms(
            world, folder / "vms", environment=environment, longest_seconds=longest_seconds
        ) as vms,
    ):
        settings = _settings(folder, compute, cloud or {}, budget)
        session = f"bed-{settings.cluster.gcs_port}"
        variables = _environment(settings, session)
        cluster: Bed | None = None
        try:
            _start(settings, variables)
            controller = start_controller(settings, variables)
            cluster = Bed(settings, world, compute, vms, session, variables, controller)
            yield cluster
        finally:
            end_processes(session)
            if cluster is not None:
                controller.wait(timeout=60)
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
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(settings))
    process.stdin.close()
    return process


def _settings(
    folder: Path, compute: FakeCompute, cloud: Mapping[str, Any], budget: Mapping[str, Any]
) -> Settings:
    [gcs] = free_ports(1, HEAD_ADDRESS)
    settings = load_settings()
    cluster = settings.cluster.model_copy(
        update={
            "node_ip": HEAD_ADDRESS,
            "gcs_port": gcs,
            "temp_dir": Path(f"/tmp/ironcliw-bed-{gcs}"),
        }
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
    clean = {
        k: v for k, v in process_environment().items() if not k.startswith(("IRONCLIW_", "RAY_"))
    }
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
        *SMALL_NODE.split(),
        "--num-cpus=1",
        "--include-dashboard=false",
        "--disable-usage-stats",
        *autoscaler_options(settings),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    if done.returncode:
        raise ClusterError(f"the head of the test bed did not start: {done.stdout}{done.stderr}")
