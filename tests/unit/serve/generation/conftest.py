"""What several tests of generation run on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """One compute thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool
