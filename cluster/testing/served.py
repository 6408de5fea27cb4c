"""A whole service on the test bed: `ironcliw up`, a fake cloud, and VMs that replicas run on.

    with served(folder, environment) as service:
        answer = httpx.post(service.url + "/v1/embeddings", json={...})
        service.world.add(Preempt())

The head is the real one, with its supervisor, autoscaler, controller and application. Its VMs are
processes of this machine, or, in a `Network`, namespaces with cables that can be cut; there the
head has the address of host `head`, and whoever wants to talk to it must be there too: `inside`.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster.events import EventLog
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import Fault
from cluster.testing.instances import Timings
from cluster.testing.namespace_vms import NamespaceVms
from cluster.testing.network import HEAD_ADDRESS, Network, worker_address
from cluster.testing.ports import free_ports
from cluster.testing.process_vms import SMALL_NODE, SYSTEM_PATH, ProcessVms
from cluster.testing.world import World
from ironcliw.errors import ClusterError
from ironcliw.settings import process_environment
from ironcliw.store import Store

T = TypeVar("T")

BIN = Path(sys.executable).parent
# Ray takes 127.0.0.1 for "no address given".
_LOOPBACK_HEAD = "127.0.0.2"
_UP_SECONDS = 240.0
_PORTS = ("SERVE__PORT", *(f"CLUSTER__{name}_PORT" for name in ("GCS", "DASHBOARD", "METRICS")))
_AGENT_PORT = "CLUSTER__AGENT_PORT"


@dataclass
class Served:
    """What a test drives and looks at.

    Attributes:
        url: Of the service.
        world: The cloud's state.
        vms: The machines with power.
        environment: Of the head, and of whoever runs `ironcliw` for it.
        state: The state directory.
        network: Where the head is; None: on this machine's loopback.
    """

    url: str
    world: World
    vms: ProcessVms
    environment: dict[str, str]
    state: Path
    network: Network | None = None

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function where the service can be reached."""
        return function() if self.network is None else self.network.call("head", function)

    def run(self, *words: str, timeout: float = _UP_SECONDS) -> str:
        """`ironcliw WORDS`; what it printed.

        Raises:
            ClusterError: it failed.
        """
        command = [str(BIN / "ironcliw"), *words]
        if self.network is not None:
            command = self.network.enter("head", command)
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.state.parent,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise ClusterError(f"`ironcliw {' '.join(words)}` failed: {done.stderr}\n{self.logs()}")
        return done.stdout

    def live(self) -> list[str]:
        """Machines that the cloud has."""
        with self.world.lock:
            self.world.step()
            return sorted(each.name for each in self.world.instances.values())

    def told(self, *kinds: str) -> list[str]:
        """Messages of events, oldest first."""
        with Store(f"sqlite:///{self.state / 'state.db'}") as store:
            events = EventLog(store).recent(100, kinds or None)
        return [event.message for event in reversed(events)]

    def wait_for(
        self, condition: Callable[[], Any], seconds: float, what: str, every: float = 0.05
    ) -> Any:
        """The condition's first true value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(every)
        raise ClusterError(f"{what}: not within {seconds:g} s\n{self.logs()}")

    def logs(self) -> str:
        """For a failure: the ends of the logs, and the VMs' consoles."""
        temp = Path(self.environment["IRONCLIW_CLUSTER__TEMP_DIR"]) / "session_latest" / "logs"
        paths = [*sorted((self.state / "logs").glob("*.log")), *temp.glob("serve/*.log")]
        texts = [f"== {path.name}\n{_end(path)}" for path in [*paths, *temp.glob("monitor.log")]]
        return "\n".join([*texts, *(self.vms.serial(name)[-2000:] for name in self.live())])


def _end(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-2000:]


@contextlib.contextmanager
def served(
    folder: Path,
    *faults: Fault,
    cloud: Mapping[str, Any] | None = None,
    variables: Mapping[str, str] | None = None,
    network: Network | None = None,
    timings: Timings | None = None,
    longest_seconds: float = 300.0,
) -> Iterator[Served]:
    """Starts everything, and leaves nothing behind.

    Args:
        folder: For the state and the files of the VMs.
        faults: What goes wrong.
        cloud: Changes to the settings of section `cloud`.
        variables: Further variables of the head, such as `IRONCLIW_SERVE__SPOT_IDLE_SECONDS`.
        network: Namespaces, to which host `head` is added; by default everything is on loopback.
        timings: Of the cloud; by default a machine runs two seconds after it was ordered.
        longest_seconds: After so much time every VM is turned off.
    """
    timings = timings or Timings(provisioning=1.0, staging=1.0)
    address = worker_address if network else (lambda count: f"127.0.1.{1 + count % 250}")
    world = World(timings=timings, faults=faults, address=address)
    if network is not None:
        network.add("head", HEAD_ADDRESS)
    home = network or _Loopback()
    ports = home.call("head", lambda: free_ports(len(_PORTS) + 1))
    # short: it becomes part of a socket's path
    temp = Path(f"/tmp/ironcliw-served-{ports[0]}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, temp, ignore_errors=True)
        compute = home.call("head", lambda: stack.enter_context(FakeCompute(world)))
        vms = stack.enter_context(_machines(world, folder, network, temp, longest_seconds))
        environment = {
            **_environment(folder, compute, cloud or {}),
            **{f"IRONCLIW_{name}": str(port) for name, port in zip(_PORTS, ports, strict=False)},
            f"IRONCLIW_{_AGENT_PORT}": str(ports[-1]),
            "IRONCLIW_CLUSTER__NODE_IP": HEAD_ADDRESS if network else _LOOPBACK_HEAD,
            "IRONCLIW_CLUSTER__TEMP_DIR": str(temp),
            **(variables or {}),
        }
        url = f"http://127.0.0.1:{ports[0]}"
        service = Served(url, world, vms, environment, folder / "state", network)
        service.run("up")
        try:
            yield service
        finally:
            service.run("down")


class _Loopback:
    """This machine, in the place of a network."""

    def call(self, host: str, function: Callable[[], T]) -> T:
        return function()


def _machines(
    world: World, folder: Path, network: Network | None, temp: Path, longest_seconds: float
) -> ProcessVms:
    environment = {
        "PATH": f"{BIN}:{SYSTEM_PATH}",
        "IRONCLIW_VM_BIN": str(BIN),
        # Ray gives a node thirty seconds to start: without what is not needed it is there in time
        "IRONCLIW_RAY_OPTIONS": SMALL_NODE,
        "HF_HUB_OFFLINE": "1",
    }
    if network is None:
        return ProcessVms(
            world, folder / "vms", environment=environment, longest_seconds=longest_seconds
        )
    return NamespaceVms(
        world,
        folder / "vms",
        network,
        environment=environment,
        longest_seconds=longest_seconds,
        private_folders=("/dev/shm", str(temp)),
    )


def _environment(folder: Path, compute: FakeCompute, cloud: Mapping[str, Any]) -> dict[str, str]:
    changes = {
        "vpn": "none",
        "image_is_baked": True,
        "join_seconds": 120.0,
        "notice_seconds": 0,
        **cloud,
    }
    clean = {k: v for k, v in process_environment().items() if not _is_ours(k)}
    return {
        **clean,
        "IRONCLIW_STATE_DIR": str(folder / "state"),
        "IRONCLIW_CLOUD": compute.cloud(**changes).model_dump_json(exclude_unset=True),
        "IRONCLIW_BUDGET__MONTH_USD": "200",
        "IRONCLIW_CLUSTER__START_TIMEOUT_SECONDS": str(_UP_SECONDS),
        "HF_HUB_OFFLINE": "1",
    }


def _is_ours(name: str) -> bool:
    return name.startswith(("IRONCLIW_", "RAY_"))
