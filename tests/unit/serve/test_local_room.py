"""What fits at home: the project's rule, and what is there already."""

from __future__ import annotations

from typing import Any

import pytest

from ironcliw.catalog import Catalog
from ironcliw.errors import ModelNotFoundError
from serve.local_room import LocalRoom, available_bytes

GIGABYTE = 1_000_000_000


class Machine:
    """A machine with so much free memory, and a clock."""

    def __init__(self, free_gb: float) -> None:
        self.free_gb = free_gb
        self.used = 50.0
        self.now = 100.0
        self.looks = 0

    def free(self) -> int:
        self.looks += 1
        return int(self.free_gb * GIGABYTE)

    def room(self, *pinned: str) -> LocalRoom:
        return LocalRoom(Catalog(), pinned, lambda: self.now, self.free, lambda: self.used)


def stats(**states: str) -> dict[str, Any]:
    return {"models": [{"id": model, "state": state} for model, state in states.items()]}


@pytest.mark.parametrize(
    ("model", "free_gb", "fits"),
    [
        ("bart-large-mnli", 10.5, True),
        ("bart-large-mnli", 7.2, False),
        ("llama-2-7b", 30.0, False),
        ("llama-2-7b", 31.1, True),
    ],
)
def test_the_rule(model: str, free_gb: float, fits: bool) -> None:
    assert Machine(free_gb).room().fits(model) is fits


def test_a_machine_that_is_nearly_full_takes_no_further_model() -> None:
    machine = Machine(64.0)
    machine.used = 85.0
    room = machine.room("t5-small")
    assert not room.fits("t5-base")
    room.see(stats(**{"t5-base": "ready"}))
    assert room.fits("t5-base")
    assert room.fits("t5-small")


def test_what_is_pinned_or_loaded_fits() -> None:
    room = Machine(1.0).room("t5-small")
    assert room.fits("t5-small")
    assert not room.fits("t5-base")
    for state, fits in (("loading", True), ("in_use", True), ("absent", False)):
        room.see(stats(**{"t5-base": state}))
        assert room.fits("t5-base") is fits


def test_the_memory_is_looked_at_once_a_second() -> None:
    machine = Machine(1.0)
    room = machine.room()
    for _ in range(9):
        assert not room.fits("t5-base")
    machine.free_gb = 12.0
    assert machine.looks == 1
    machine.now += 1.1
    assert room.fits("t5-base")


def test_no_such_model() -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'nobody'"):
        Machine(1.0).room().fits("nobody")


def test_a_real_machine_has_memory() -> None:
    assert available_bytes() > 10_000_000


def test_an_adapter_fits_beside_its_base() -> None:
    room = Machine(1.0).room()
    assert not room.fits("t5-base")
    room.see(stats(**{"t5-base": "ready"}))
    assert room.fits("t5-base:mine@1")
