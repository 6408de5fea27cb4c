"""What the tests of the operators share: levels of the kernels, and the state left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from native_ops import binary
from tests.unit.native_ops.levels import BACKENDS, LEVELS, choose

KERNELS = binary.load()


@pytest.fixture(autouse=True)
def level_and_threads_as_before() -> Iterator[None]:
    """However a test ends, the next one computes at the highest level, on as many threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if KERNELS is not None:  # not through `binary`, which may be made to find another one now
        KERNELS.choose_level("")


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    """Each level of the compiled kernels, chosen."""
    name: str = request.param
    choose(name)
    return name


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each level, chosen, and `reference`, for which a test calls the reference itself."""
    name: str = request.param
    choose(name)
    return name
