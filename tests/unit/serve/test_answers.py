"""Vectors to bytes, and vectors kept by content."""

from __future__ import annotations

import json

import numpy as np
import pytest

from serve.answers import embedding_body, shorten
from serve.content_cache import ContentCache


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


def vector(value: float, length: int = 4) -> np.ndarray:
    return np.full(length, value, dtype=np.float32)


def test_shortened_vectors_have_length_one() -> None:
    vectors = np.array([[3, 4, 12], [0, 0, 1]], dtype=np.float32)
    cut = shorten(vectors, 2)
    assert cut[0] == pytest.approx([0.6, 0.8])
    assert cut[1] == pytest.approx([0, 0])  # nothing to normalise, and no division by zero
    assert shorten(vectors, 3) is vectors
    assert shorten(vectors, None) is vectors


def test_floats_survive_json_to_the_last_bit() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    body = json.loads(embedding_body(vectors, "m", 7, [], "float"))
    back = np.array([item["embedding"] for item in body["data"]], dtype=np.float32)
    assert (back == vectors).all()
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert "truncated" not in body


class TestContentCache:
    def test_what_was_put_is_found_by_model_and_tokens(self) -> None:
        cache = ContentCache(10_000)
        cache.put("m", tokens(1, 2), vector(1))
        found = cache.get("m", tokens(1, 2))
        assert found is not None
        assert (found == 1).all()
        assert cache.get("m", tokens(1)) is None
        assert cache.get("n", tokens(1, 2)) is None
        assert (cache.hits, cache.misses) == (1, 2)

    def test_it_never_holds_more_than_its_bytes(self) -> None:
        cache = ContentCache(2_000)
        for number in range(50):
            cache.put("m", tokens(number), vector(number))
            assert cache.bytes <= 2_000
        assert cache.get("m", tokens(0)) is None
        assert cache.get("m", tokens(49)) is not None

    def test_the_least_recently_used_goes_first(self) -> None:
        cache = ContentCache(1_000)
        cache.put("m", tokens(1), vector(1))
        cache.put("m", tokens(2), vector(2))
        cache.get("m", tokens(1))
        cache.put("m", tokens(3), vector(3))
        assert cache.get("m", tokens(1)) is not None
        assert cache.get("m", tokens(2)) is None

    def test_a_model_is_forgotten_whole(self) -> None:
        cache = ContentCache(10_000)
        for model in ("m", "n"):
            cache.put(model, tokens(1), vector(1))
        cache.forget("m")
        assert cache.get("m", tokens(1)) is None
        assert cache.get("n", tokens(1)) is not None
        cache.forget("n")
        assert cache.bytes == 0

    def test_a_row_does_not_keep_its_batch_alive(self) -> None:
        cache = ContentCache(10_000)
        batch = np.zeros((1000, 4), dtype=np.float32)
        cache.put("m", tokens(1), batch[0])
        found = cache.get("m", tokens(1))
        assert found is not None
        assert found.base is None

    def test_zero_bytes_turn_it_off(self) -> None:
        cache = ContentCache(0)
        cache.put("m", tokens(1), vector(1))
        assert cache.get("m", tokens(1)) is None
