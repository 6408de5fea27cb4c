"""The split and duplicates."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.split import first_places, is_held_out, shared

KEYS = [hashlib.sha256(bytes([n, m])).digest() for n in range(100) for m in range(100)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_the_share_is_kept(share: float) -> None:
    held_out = sum(is_held_out(key, share) for key in KEYS)
    deviation = (len(KEYS) * share * (1 - share)) ** 0.5
    assert abs(held_out - share * len(KEYS)) <= 4 * deviation


def test_what_is_held_out_of_a_part_is_held_out_of_more() -> None:
    small = {key for key in KEYS if is_held_out(key, 0.1)}
    large = {key for key in KEYS if is_held_out(key, 0.3)}
    assert small < large


@given(keys=st.lists(st.binary(max_size=2), max_size=20))
def test_first_places(keys: list[bytes]) -> None:
    assert first_places(keys) == [keys.index(key) for key in keys]


def test_shared() -> None:
    assert shared([b"a", b"b"], {b"b", b"c"}) == [False, True]
