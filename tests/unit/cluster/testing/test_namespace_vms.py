"""VMs as namespaces: their network, and that nothing of it is left. Needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.testing.clocks import ManualClock
from cluster.testing.control_plane import ControlPlane
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import CutLink, Preempt
from cluster.testing.namespace_vms import NamespaceVms
from cluster.testing.network import HEAD_ADDRESS, Network, worker_address
from cluster.testing.world import World
from tests.requirements import need_namespaces
from tests.waiting import wait_for

from .conftest import Cloud
from .test_process_vms import leftovers

pytestmark = pytest.mark.netns

Body = Callable[..., dict[str, Any]]
METADATA = 'curl -s -H "Metadata-Flavor: Google" http://169.254.169.254/computeMetadata/v1/instance'


@pytest.fixture(autouse=True)
def rights() -> None:
    need_namespaces()


def namespaces() -> list[str]:
    """Those of this process."""
    return [path.name for path in Path("/run/netns").glob(f"iwt{os.getpid()}-*")]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        network.add("head", HEAD_ADDRESS)
        yield network
    assert namespaces() == []


@pytest.fixture
def bed(network: Network) -> Cloud:
    clock = ManualClock()
    world = World(clock=clock, address=worker_address)
    return Cloud(world, clock, ControlPlane(world))


@pytest.fixture
def vms(bed: Cloud, network: Network, tmp_path: Path) -> Iterator[NamespaceVms]:
    with NamespaceVms(bed.world, tmp_path, network, longest_seconds=60) as running:
        yield running
    assert leftovers(tmp_path) == []


@pytest.fixture
def boot(bed: Cloud, vms: NamespaceVms, body: Body) -> Callable[..., None]:
    def insert(script: str, name: str = "vm-1", **changes: Any) -> None:
        items = [{"key": "startup-script", "value": script}]
        bed.insert(body(name, metadata={"items": items}, **changes))
        bed.advance(1)
        wait_for(lambda: "up" in vms.serial(name))

    return insert


@pytest.fixture
def compute(bed: Cloud, network: Network) -> Iterator[FakeCompute]:
    """A fake on the head, where the VMs reach it."""
    with network.call("head", lambda: FakeCompute(bed.world, host=HEAD_ADDRESS)) as server:
        yield server


def test_a_vm_is_a_machine_of_its_own(vms: NamespaceVms, boot: Callable[..., None]) -> None:
    lines = [
        'echo "host $(hostname)"',
        "echo \"address $(ip -4 -o addr show eth0 | awk '{print $4}')\"",
        'echo "routes $(ip route | wc -l)"',
        f'echo "name $({METADATA}/name)"',
        'echo "processes $(ls /proc | grep -c "^[0-9]")"',
        'echo "shared $(ls /dev/shm | wc -l)"',
    ]
    boot("\n".join([*lines, "echo up", "sleep 600"]))
    found = dict(line.split(" ", 1) for line in vms.serial("vm-1").splitlines()[:-1])
    assert found["host"].startswith("vm-1")
    assert (found["address"], found["routes"], found["name"]) == ("10.77.0.11/16", "1", "vm-1")
    assert int(found["processes"]) < 8
    assert found["shared"] == "0"


def test_a_cut_link_cuts_and_mends(
    bed: Cloud, vms: NamespaceVms, boot: Callable[..., None], compute: FakeCompute
) -> None:
    url = f"{compute.url}/compute/v1/projects/test-project"
    ask = f'curl -s -o /dev/null -m 0.3 -w "%{{http_code}}\\n" {url}'
    boot(f"echo up; while true; do {ask}; sleep 0.05; done")
    wait_for(lambda: "200" in vms.serial("vm-1"))
    bed.world.add(CutLink(seconds=60))
    wait_for(lambda: vms.serial("vm-1").endswith("000\n000\n"))
    bed.advance(60)
    wait_for(lambda: vms.serial("vm-1").endswith("200\n200\n"))


def test_a_server_of_a_host_cannot_be_reached_from_here(compute: FakeCompute) -> None:
    with (
        pytest.raises(httpx.TransportError, match=r"refused|unreachable|timed out|No route"),
        httpx.Client(trust_env=False, timeout=1) as client,
    ):
        client.get(f"{compute.url}/compute/v1/projects/test-project")


def test_vms_reach_each_other(vms: NamespaceVms, boot: Callable[..., None]) -> None:
    boot("echo up; python3 -m http.server 8000 --bind 0.0.0.0; sleep 600", "vm-1")
    ask = "curl -s -o /dev/null -m 2 http://10.77.0.11:8000/startup-script"
    boot(f"until {ask}; do sleep 0.05; done; echo up", "vm-2")


@pytest.mark.parametrize("notice", [0.0, 30.0])
def test_a_preempted_vm_loses_its_power_and_its_network(
    bed: Cloud, vms: NamespaceVms, boot: Callable[..., None], notice: float
) -> None:
    boot("setsid -f sleep 601; echo up; sleep 602")
    assert any(name.partition("-")[2].startswith("vm-1") for name in namespaces())
    bed.world.add(Preempt(notice=notice))
    bed.advance(notice)
    wait_for(lambda: vms.names() == [])
    assert leftovers(vms.folder) == []
    assert not any(name.partition("-")[2].startswith("vm-1") for name in namespaces())


def test_a_command_on_a_host(network: Network) -> None:
    inner = ["sh", "-c", "hostname; echo $$; ip -4 -o addr show eth0"]
    done = subprocess.run(
        network.command("head", inner), capture_output=True, text=True, check=True, timeout=20
    )
    host, pid, address = done.stdout.splitlines()
    assert (host, pid) == ("head", "1")
    assert f"{HEAD_ADDRESS}/16" in address


def test_what_a_killed_process_left_is_removed() -> None:
    name = "iwt4194399-switch"  # above the kernel's largest number of a process
    subprocess.run(["ip", "netns", "add", name], check=True)
    with Network():
        assert not Path("/run/netns", name).exists()


def test_an_error_on_a_host_comes_back(network: Network) -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        network.call("head", lambda: 1 / 0)
