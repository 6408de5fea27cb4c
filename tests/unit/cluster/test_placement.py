"""The placement rules at their edges; the figures of the original examples."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import placement
from cluster.placement import Backend, has_local_room, select_model_backend, should_use_cloud
from ironcliw.errors import RequestError

AMOUNTS = st.floats(0, 1e6)


def test_the_examples_in_the_docstrings() -> None:
    result = doctest.testmod(placement)
    assert (result.failed, result.attempted) == (0, 4)


@pytest.mark.parametrize(
    ("size", "free", "backend"),
    [
        (1.6, 10.5, Backend.LOCAL),
        (1.5, 7.0, Backend.CLOUD),
        (1.5, math.nextafter(7.0, 8.0), Backend.LOCAL),
        (0.0, 4.0, Backend.CLOUD),
        (0.09, 6.0, Backend.LOCAL),
        (14.0, 10.5, Backend.CLOUD),
        (14.0, 0.0, Backend.CLOUD),
    ],
)
def test_a_model_is_local_only_if_more_than_4_gb_stay(
    size: float, free: float, backend: Backend
) -> None:
    assert select_model_backend(size, free) is backend


@pytest.mark.parametrize(
    ("memory", "minutes", "cloud"),
    [(8, 11, False), (8.01, 10, False), (8.01, 10.01, True), (64, 1, False), (1, 600, False)],
)
def test_the_cloud_takes_what_is_large_and_long(memory: float, minutes: float, cloud: bool) -> None:
    assert should_use_cloud(memory, minutes) is cloud


@pytest.mark.parametrize(("percent", "room"), [(0, True), (84.99, True), (85, False), (100, False)])
def test_a_full_machine_takes_on_no_more(percent: float, room: bool) -> None:
    assert has_local_room(percent) is room


@given(size=AMOUNTS, free=AMOUNTS, more=AMOUNTS)
def test_more_free_memory_never_sends_a_model_away(size: float, free: float, more: float) -> None:
    if select_model_backend(size, free) is Backend.LOCAL:
        assert select_model_backend(size, free + more) is Backend.LOCAL


@given(memory=AMOUNTS, minutes=AMOUNTS, more=AMOUNTS)
def test_a_larger_or_longer_job_stays_in_the_cloud(
    memory: float, minutes: float, more: float
) -> None:
    if should_use_cloud(memory, minutes):
        assert should_use_cloud(memory + more, minutes)
        assert should_use_cloud(memory, minutes + more)


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf, -math.inf])
def test_figures_that_are_none_are_refused_by_name(wrong: float) -> None:
    calls: dict[str, Callable[[], object]] = {
        "model_size_gb": lambda: select_model_backend(wrong, 1),
        "free_ram_gb": lambda: select_model_backend(1, wrong),
        "memory_gb": lambda: should_use_cloud(wrong, 1),
        "duration_minutes": lambda: should_use_cloud(1, wrong),
        "ram_percent": lambda: has_local_room(wrong),
    }
    for name, call in calls.items():
        with pytest.raises(RequestError, match=rf"{name} is .*finite number of 0 or more") as error:
            call()
        assert error.value.param == name


def test_a_share_above_all_is_refused() -> None:
    with pytest.raises(RequestError, match="ram_percent is 101; give a share between 0 and 100"):
        has_local_room(101)
