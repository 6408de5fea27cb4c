"""Memory for weights: zeros, aligned, writable to the last byte, freed with the last view."""

from __future__ import annotations

import gc
import mmap
from pathlib import Path

import pytest
import torch

from native_ops.huge_pages import HUGE_PAGE, zeros_in_huge_pages

HAS_PAGES = hasattr(mmap, "MADV_HUGEPAGE")


@pytest.mark.parametrize("nbytes", [0, 1, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 17])
def test_it_is_zeros_of_the_size_asked_for(nbytes: int) -> None:
    memory = zeros_in_huge_pages(nbytes)
    assert memory.shape == (nbytes,)
    assert memory.dtype == torch.uint8
    assert memory.is_contiguous()
    assert not memory.any()


def test_every_byte_can_be_written() -> None:
    memory = zeros_in_huge_pages(HUGE_PAGE + 1)
    memory.fill_(7)
    assert memory.sum(dtype=torch.int64) == 7 * (HUGE_PAGE + 1)


@pytest.mark.skipif(not HAS_PAGES, reason="the system cannot be asked for large pages")
def test_it_begins_with_a_page_unless_it_is_small() -> None:
    assert zeros_in_huge_pages(2 * HUGE_PAGE).data_ptr() % HUGE_PAGE == 0


def test_without_large_pages_it_is_ordinary_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert zeros_in_huge_pages(2 * HUGE_PAGE).untyped_storage().nbytes() == 2 * HUGE_PAGE


def test_advice_that_is_refused_leaves_small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999, raising=False)  # EINVAL
    assert zeros_in_huge_pages(2 * HUGE_PAGE).numel() == 2 * HUGE_PAGE


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_it_is_freed_with_the_last_view() -> None:
    view = zeros_in_huge_pages(64 * HUGE_PAGE)[HUGE_PAGE:]
    address = view.data_ptr()
    assert _is_mapped(address)
    del view
    gc.collect()
    assert not _is_mapped(address)


def _is_mapped(address: int) -> bool:
    with open("/proc/self/maps") as lines:
        ranges = (line.split()[0].split("-") for line in lines)
        return any(int(low, 16) <= address < int(high, 16) for low, high in ranges)
