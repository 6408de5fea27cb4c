"""The Compute library in part: the same names, and little memory; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def run(program: str) -> list[str]:
    text = f"from cluster.gce.library import compute_library\n{program}"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_clients_and_messages_are_those_of_the_package() -> None:
    found = run(
        "library = compute_library()\n"
        "from google.cloud import compute_v1\n"
        "assert compute_v1 is library\n"
        "for name in ('InstancesClient', 'GlobalOperationsClient', 'Instance', 'Scheduling'):\n"
        "    print(getattr(compute_v1, name).__module__)\n"
        "print(compute_v1.Operation.Status.DONE.name)\n"
        "print(hasattr(compute_v1, 'NoSuchClient'), hasattr(compute_v1, 'NoSuchMessage'))\n"
    )
    package = "google.cloud.compute_v1"
    assert found == [
        f"{package}.services.instances.client",
        f"{package}.services.global_operations.client",
        f"{package}.types.compute",
        f"{package}.types.compute",
        "DONE",
        "False",
        "False",
    ]


def test_only_the_clients_in_use_are_loaded() -> None:
    # the one of instances needs the one of their operations
    found = run(
        "import sys\n"
        "compute_library().InstancesClient\n"
        "services = {name.split('.')[4] for name in sys.modules\n"
        "            if name.startswith('google.cloud.compute_v1.services.')}\n"
        "print(*sorted(services))"
    )
    assert found == ["instances", "zone_operations"]


def test_a_package_that_is_loaded_already_is_used() -> None:
    assert run("from google.cloud import compute_v1\nprint(compute_library() is compute_v1)") == [
        "True"
    ]
