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

_LAYERS = """
import torch
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) // 1024
sizes = [884_736] * 3 + [331_776] * 2 + [110_592] * 2
layers = [[torch.empty(size) for size in sizes] for _ in range(30)]
def give_up(layer):
    for weights in layer:
        weights.untyped_storage().resize_(0)
for layer in layers:
    give_up(layer)
before, activations = resident(), []
for layer in layers:
    gathered = torch.ones(sum(sizes))
    for weights, size in zip(layer, sizes):
        weights.untyped_storage().resize_(4 * size)
        weights.fill_(1)
    del gathered
    activations += [torch.ones(24_000) for _ in range(10)]  # 0.9 MiB of each layer, which stay
    give_up(layer)
print(resident() - before)
"""


def measured(program: str, **variables: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", program],
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
    plain = measured(_FAULTS)
    kept = measured(_FAULTS, **{ALLOCATOR: run_environment({})[ALLOCATOR]})
    assert kept < plain / 10, (kept, plain)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_layers_that_come_and_go_leave_no_holes() -> None:
    kept, given_back = (
        measured(_LAYERS, **{ALLOCATOR: run_environment({}, in_pieces=pieces)[ALLOCATOR]})
        for pieces in (False, True)
    )
    # 27 MiB of activations
    assert given_back < 40, (kept, given_back)
    assert kept > 2 * given_back, (kept, given_back)
