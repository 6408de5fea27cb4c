"""The KV cache gives memory back, stays within its bytes, and keeps slots apart."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ironcliw.errors import SettingsError
from serve.engines.decoders.kv_cache import KvCache, KvShape, SlotPages

SHAPE = KvShape(layers=4, heads=2, width=64)


def make(slots: int = 3, context: int = 20_000, limit_bytes: int = 1 << 40) -> KvCache:
    return KvCache(
        SHAPE,
        slots=slots,
        context=context,
        limit_bytes=limit_bytes,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )


def resident_bytes(cache: KvCache) -> int:
    """Of the mapping that holds the cache: the process has other memory that comes and goes."""
    keys, _ = cache.read(1, 1, 1)
    address = keys[0].data_ptr()
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and (found := re.match(r"Rss:\s+(\d+) kB", line)):
            return int(found[1]) * 1024
    raise AssertionError(f"no mapping holds {address:#x}")


def fill(cache: KvCache, slot: int, length: int, value: float) -> None:
    places = cache.places(np.full(length, slot), np.arange(length))
    for layer, rows in enumerate(places):
        half = torch.full((length, 128), value + layer, dtype=torch.bfloat16)
        cache.write(rows, torch.cat((half, -half), 1))
    cache.held[slot] = length


def test_slots_and_layers_keep_what_was_written() -> None:
    cache = make(context=50)
    for slot in range(3):
        fill(cache, slot, 20 + slot, 10.0 * slot)
    keys, values = cache.read(1, 2, 21)
    assert len(keys) == len(values) == 4
    for layer in range(4):
        assert keys[layer].shape == (2, 2, 21, 64)
        expected = torch.tensor([10.0 + layer, 20.0 + layer])[:, None, None, None]
        assert (keys[layer] == expected).all()
        assert (values[layer] == -expected).all()


def test_memory_comes_with_positions_and_goes_with_the_slot() -> None:
    cache = make()
    size = 15_000 * SHAPE.position_bytes(torch.bfloat16)
    before = resident_bytes(cache)
    fill(cache, 1, 15_000, 1.0)
    assert 0.99 * size < resident_bytes(cache) - before < 1.01 * size
    cache.free(1)
    assert resident_bytes(cache) - before < 0.01 * size
    assert cache.held[1] == 0


def test_positions_follow_from_the_bytes() -> None:
    assert SHAPE.position_bytes(torch.bfloat16) == 2048
    assert make(limit_bytes=100 * 2048 + 5).tokens == 100
    assert make(limit_bytes=100 * 2048 + 5).limit_bytes == 100 * 2048
    assert make(slots=2, context=30).tokens == 60


def test_too_few_bytes_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"4096 bytes holds 2 positions .* its 3 slots"):
        make(limit_bytes=4096)


@pytest.mark.parametrize("slot_bytes", [1 << 55, 1 << 62])
def test_more_than_can_be_addressed_is_refused(slot_bytes: int) -> None:
    match = f"a KV cache of 8 slots, .* {slot_bytes} bytes, .*lower serve.generation_slots"
    with pytest.raises(SettingsError, match=match):
        SlotPages(8, slot_bytes)
