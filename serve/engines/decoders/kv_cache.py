"""Keys and values of the sequences that are being continued, as many bytes as positions held.

On the CPU the cache is address space: memory comes page by page as positions are written and goes
back when a slot is freed, so that a slot may grow to the whole context without a copy and without
reserving it. Neighbouring slots stand at one distance, so attention reads several in one call.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ironcliw.errors import SettingsError
from serve.engines.decoders.ragged import Index


@dataclass(frozen=True, slots=True)
class KvShape:
    """What one position takes.

    Attributes:
        layers: L.
        heads: Key and value heads, H.
        width: Of a head, d.
    """

    layers: int
    heads: int
    width: int

    def position_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of one position over all layers."""
        return 2 * self.layers * self.heads * self.width * dtype.itemsize


class KvCache:
    """[slots, L, context, 2, H, d], and how much of each slot is filled.

    Args:
        shape: What one position takes.
        slots: Sequences at once.
        context: Most positions of one.
        limit_bytes: Most bytes over all slots.
        dtype: Of keys and values.
        device: Where they are. Other than on the CPU the whole cache is taken at once, and each
            slot has an equal share of it.

    Raises:
        SettingsError: the limit does not even hold one position a slot.
    """

    def __init__(
        self,
        shape: KvShape,
        *,
        slots: int,
        context: int,
        limit_bytes: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._position_bytes = shape.position_bytes(dtype)
        self.tokens = positions_within(limit_bytes, self._position_bytes, slots, context)
        self.context = context if device.type == "cpu" else min(context, self.tokens // slots)
        self.held: Index = np.zeros(slots, np.int64)
        self._layers = shape.layers
        self._slot_rows = shape.layers * self.context
        self._row = 2 * shape.heads * shape.width
        slot_elements = self._slot_rows * self._row
        self._pages: SlotPages | None = None
        if device.type == "cpu":
            self._pages = SlotPages(slots, slot_elements * dtype.itemsize)
            flat = self._pages.tensor(dtype)
        else:
            flat = torch.empty(slots * slot_elements, dtype=dtype, device=device)
        self._rows = flat.view(-1, self._row)
        sizes = (slots, shape.layers, self.context, 2, shape.heads, shape.width)
        self._grid = flat.view(sizes)

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self._rows.dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._rows.device

    @property
    def limit_bytes(self) -> int:
        """The most that it may grow to."""
        return self.tokens * self._position_bytes

    def places(self, slots: Index, positions: Index) -> tuple[torch.Tensor, ...]:
        """For each layer, the rows where these tokens' keys and values go: int64 [N]."""
        first = torch.from_numpy(slots * self._slot_rows + positions)
        layers = torch.arange(self._layers).mul_(self.context)
        return (layers[:, None] + first).to(self._rows.device).unbind(0)

    def write(self, places: torch.Tensor, keys_values: torch.Tensor) -> None:
        """Store [N, 2 H d], keys first, at the places of one layer."""
        self._rows.index_copy_(0, places, keys_values)

    def read(
        self, slot: int, count: int, length: int
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Keys and values of neighbouring slots, for each layer views [count, H, length, d]."""
        part = self._grid[slot : slot + count, :, :length].permute(1, 3, 0, 4, 2, 5)
        return part[:, 0].unbind(0), part[:, 1].unbind(0)

    def free(self, slot: int) -> None:
        """Empty a slot and give its memory back."""
        if self._pages is not None and self.held[slot]:
            self._pages.give_back(slot)
        self.held[slot] = 0


def positions_within(limit_bytes: int, position_bytes: int, slots: int, context: int) -> int:
    """Positions that a cache of so many bytes holds over all slots.

    Raises:
        SettingsError: not even one a slot.
    """
    tokens = min(limit_bytes // position_bytes, slots * context)
    if tokens < slots:
        raise SettingsError(
            f"a KV cache of {limit_bytes} bytes holds {tokens} positions of this model "
            f"({position_bytes} bytes each), fewer than its {slots} slots; raise it"
        )
    return tokens


class SlotPages:
    """Zeroed memory of the CPU, a stretch for each slot, that takes none until it is written.

    Args:
        slots: How many stretches.
        slot_bytes: Of each.

    Raises:
        SettingsError: more than this process can address.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        # NORESERVE: Linux refuses a mapping beyond its memory otherwise, although little gets used
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        try:
            self._pages = mmap.mmap(-1, max(slots * slot_bytes, 1), flags=flags)
        except (OSError, OverflowError, ValueError) as error:
            raise SettingsError(
                f"a KV cache of {slots} slots, each of which may grow to {slot_bytes} bytes, does "
                f"not fit this process's addresses ({error}); lower serve.generation_slots or "
                "serve.kv_cache_bytes"
            ) from error
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            # a slot's layers are far apart: huge pages would take 2 MiB for each one
            self._pages.madvise(mmap.MADV_NOHUGEPAGE)

    def tensor(self, dtype: torch.dtype) -> torch.Tensor:
        """All of it, one-dimensional."""
        return torch.frombuffer(self._pages, dtype=dtype)

    def give_back(self, slot: int) -> None:
        """Give back the pages that are the slot's alone; they read as zeros then."""
        start = -(-slot * self._slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (slot + 1) * self._slot_bytes // mmap.PAGESIZE * mmap.PAGESIZE - start
        if length > 0:
            self._pages.madvise(mmap.MADV_DONTNEED, start, length)
