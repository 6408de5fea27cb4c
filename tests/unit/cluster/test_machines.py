"""Machine types, names, and what a state means for work and for money."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import cluster
from cluster import machines
from cluster.machines import MachineType, Vm, VmRequest, VmStatus, machine_type
from ironcliw.errors import ClusterError

VM = Vm(
    name="ironcliw-0a1b2c3d",
    zone="us-central1-a",
    machine_type="e2-highmem-4",
    market="spot",
    status=VmStatus.RUNNING,
    created_at=datetime(2030, 1, 1, tzinfo=UTC),
    started_at=None,
    stopped_at=None,
    max_run_seconds=14_400,
    disk_gb=50,
    labels={},
    address="10.128.0.2",
    has_external_address=True,
)


@pytest.mark.parametrize(
    ("name", "cpus", "memory_gb"),
    [
        ("e2-highmem-4", 4, 32),
        ("e2-standard-2", 2, 8),
        ("e2-highcpu-8", 8, 8),
        ("e2-medium", 2, 4),
        ("n1-standard-4", 4, 15),
        ("n1-highcpu-2", 2, 1.8),
        ("n2-highmem-16", 16, 128),
        ("t2d-standard-1", 1, 4),
        ("c3-highcpu-22", 22, 44),
    ],
)
def test_machine_type_follows_its_family(name: str, cpus: int, memory_gb: float) -> None:
    assert machine_type(name) == MachineType(name, cpus, memory_gb)


@pytest.mark.parametrize("name", ["e2-highmem-5", "e2-highmem-04", "e2-highmem-", "e2-highmem-x"])
def test_unknown_size_names_those_of_the_family(name: str) -> None:
    with pytest.raises(ClusterError, match=f"'{name}' does not exist.*e2-highmem-4, e2-highmem-8"):
        machine_type(name)


@pytest.mark.parametrize("name", ["", "m7g.large", "e2", "z9-standard-4", "E2-highmem-4"])
def test_unknown_family_names_the_known_ones(name: str) -> None:
    with pytest.raises(ClusterError, match=f"'{re.escape(name)}' is not known.*e2-highmem-N"):
        machine_type(name)


def test_names_are_fresh_and_begin_with_the_cluster() -> None:
    names = {machines.vm_name("home") for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"home-[0-9a-f]{8}", name) for name in names)


def test_longest_cluster_name_gives_a_name_that_gce_takes() -> None:
    assert len(machines.vm_name("a" * 54)) == 63


@pytest.mark.parametrize("name", ["", "Home", "9lives", "home-", "a_b", "a" * 55, "home\n"])
def test_cluster_name_that_gce_would_refuse(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot begin a machine's name"):
        machines.vm_name(name)


@pytest.mark.parametrize("status", VmStatus)
def test_state_decides_on_work(status: VmStatus) -> None:
    vm = replace(VM, status=status)
    assert vm.is_live == (status in ("PROVISIONING", "STAGING", "RUNNING", "REPAIRING"))


def test_repr_of_a_request_hides_the_metadata() -> None:
    request = VmRequest(
        name="ironcliw-0a1b2c3d",
        zone="us-central1-a",
        machine_type="e2-highmem-4",
        market="spot",
        labels={},
        metadata={"ray-token": "squeamish"},
        image="global/images/worker",
        disk_gb=50,
        network="global/networks/default",
        subnetwork=None,
        external_address=True,
        service_account=None,
        max_run_seconds=60,
        notice_seconds=120,
        request_id="00000000-0000-4000-8000-000000000001",
    )
    assert "squeamish" not in repr(request)


@pytest.mark.parametrize(
    "fact",
    [
        r'= "ironcliw-notice-seconds"',
        r"^_?(DEFAULT_)?NOTICE_SECONDS = 30\b",
        r"= 256 \* 1024",
        r'return zone\.rpartition\("-"\)\[0\]',
        r"return importlib\.metadata\.version\(\w+\)",
    ],
)
def test_one_module_owns_each_fact(fact: str) -> None:
    """The fake cloud has its own: it must not be wrong together with what it tests."""
    root = Path(cluster.__file__).parent
    owners = [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*.py"))
        if "testing" not in path.parts and re.search(fact, path.read_text("utf-8"), re.MULTILINE)
    ]
    assert len(owners) == 1, owners
