"""The Compute library in part: the same names, and little memory; in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PACKAGE = "google.cloud.compute_v1"
IN_USE = """
import sys
library = compute_library()
library.InstancesClient
services = {name.split('.')[4] for name in sys.modules
            if name.startswith('google.cloud.compute_v1.services.')}
print(*sorted(services))
from google.cloud import compute_v1
assert compute_v1 is library
for name in ('InstancesClient', 'GlobalOperationsClient', 'Instance', 'Scheduling'):
    print(getattr(compute_v1, name).__module__)
print(compute_v1.Operation.Status.DONE.name)
print(hasattr(compute_v1, 'NoSuchClient'), hasattr(compute_v1, 'NoSuchMessage'))
"""


def run(program: str) -> list[str]:
    """Lines that a new process prints; each takes seconds, so few are started."""
    text = f"from cluster.gce.library import compute_library\n{program}"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def in_use() -> list[str]:
    return run(IN_USE)


def test_only_the_clients_in_use_are_loaded(in_use: list[str]) -> None:
    # the one of instances needs the one of their operations
    assert in_use[0] == "instances zone_operations"


def test_clients_and_messages_are_those_of_the_package(in_use: list[str]) -> None:
    assert in_use[1:] == [
        f"{PACKAGE}.services.instances.client",
        f"{PACKAGE}.services.global_operations.client",
        f"{PACKAGE}.types.compute",
        f"{PACKAGE}.types.compute",
        "DONE",
        "False False",
    ]


def test_a_package_that_is_loaded_already_is_used() -> None:
    assert run("from google.cloud import compute_v1\nprint(compute_library() is compute_v1)") == [
        "True"
    ]
