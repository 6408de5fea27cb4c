"""Answers kept by content: the same tokens for the same model have the same vector.

Assistants ask for the same phrases again and again (labels, greetings, tool names).
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from serve.engines.protocol import Tokens

Vector = npt.NDArray[np.float32]
# what a dictionary entry, two array headers and a key object cost beside their data
_OVERHEAD = 400


class ContentCache:
    """Least-recently-used vectors within a number of bytes; 0 bytes turn it off."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._entries: OrderedDict[tuple[str, bytes], Vector] = OrderedDict()
        self._bytes = 0
        self.hits = 0
        self.misses = 0

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, model: str, tokens: Tokens) -> Vector | None:
        """The vector, float32 [D], or None."""
        if not self._capacity:
            return None
        key = (model, tokens.tobytes())
        vector = self._entries.get(key)
        if vector is None:
            self.misses += 1
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return vector

    def put(self, model: str, tokens: Tokens, vector: Vector) -> None:
        """Keep a copy of a vector; the least recently used ones make room."""
        if not self._capacity:
            return
        key = (model, tokens.tobytes())
        if key in self._entries:
            return
        # a row would keep the whole batch it is a view of alive
        self._entries[key] = vector.copy()
        self._bytes += _size(key, vector)
        while self._bytes > self._capacity:
            old_key, old_vector = self._entries.popitem(last=False)
            self._bytes -= _size(old_key, old_vector)

    def forget(self, model: str) -> None:
        """Drop a model's vectors: it may come back with other weights."""
        for key in [key for key in self._entries if key[0] == model]:
            self._bytes -= _size(key, self._entries.pop(key))


def _size(key: tuple[str, bytes], vector: Vector) -> int:
    return len(key[1]) + vector.nbytes + _OVERHEAD
