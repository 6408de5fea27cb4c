"""What the batcher believes about the engine's speed."""

from __future__ import annotations

import pytest

from serve.service_time import ServiceTime


def learned(seconds: float = 0.01) -> ServiceTime:
    service = ServiceTime(2048)
    for _ in range(50):
        service.observe(100, seconds)
    return service


def test_one_slow_batch_is_not_believed() -> None:
    """A model was reloaded, or a replica died: that says nothing about the next batch."""
    service = learned()
    before = service.alone(100)
    service.observe(100, 5.0)
    assert service.alone(100) == before
    assert service.margin < 0.01


def test_two_in_a_row_are() -> None:
    service = learned()
    service.observe(100, 5.0)
    service.observe(100, 5.0)
    assert service.alone(100) > 0.3


def test_the_margin_follows_the_scatter() -> None:
    service = ServiceTime(2048)
    for number in range(200):
        service.observe(100, 0.010 if number % 2 else 0.020)
    assert service.alone(100) == pytest.approx(0.015, rel=0.2)
    assert service.margin == pytest.approx(3 * 0.005, rel=0.4)
    assert learned().margin == pytest.approx(0, abs=1e-6)
