"""What a run's processes are started with."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ironcliw.settings import process_environment
from train.environment import ALLOCATOR, run_environment

_FAULTS = """
import resource, torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(64 << 20)
before = faults()
for _ in range(8):
    torch.ones(8 << 20)  # 32 MiB, which are given back at once
print(faults() - before)
"""


def faults(**variables: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS],
        env=process_environment(**variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_what_the_environment_says_of_the_allocator_stays() -> None:
    assert run_environment({ALLOCATOR: "x=1"})[ALLOCATOR] == "x=1"
    assert run_environment({})[ALLOCATOR] != run_environment({ALLOCATOR: "x=1"})[ALLOCATOR]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_tensors_that_come_and_go_are_not_cleared_anew() -> None:
    plain = faults()
    kept = faults(**{ALLOCATOR: run_environment({})[ALLOCATOR]})
    assert kept < plain / 10, (kept, plain)
