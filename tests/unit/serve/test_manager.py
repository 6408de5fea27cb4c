"""`TransformerManager` in process, with the bundled model and with fakes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from ironcliw import TransformerManager
from ironcliw.errors import ModelLoadError, ModelNotFoundError, RequestError, UnsupportedError
from ironcliw.settings import Settings


def settings(tmp_path: Path) -> Settings:
    models = {
        "fake": {"source": "fake:8", "task": "embedding"},
        "broken": {"source": "fake:8?fail=1", "task": "embedding"},
    }
    return Settings(state_dir=tmp_path, models=models, serve={"max_batch_items": 5})


async def test_the_bundled_model_knows_what_is_alike(tmp_path: Path) -> None:
    async with TransformerManager(settings(tmp_path)) as manager:
        a, b, c = map(
            np.array,
            await manager.batch_embed(["a dog barks", "a puppy is barking", "stock prices fell"]),
        )
        single = np.array(await manager.generate_embedding("a dog barks"))
        stats = await manager.get_stats()
    assert a.shape == (384,)
    assert a @ b > 0.7 > 0.3 > a @ c
    assert a @ single > 0.9999
    [row] = stats["models"]
    assert row["id"] == "all-MiniLM-L6-v2"
    assert row["state"] == "ready"
    assert row["bytes"] > 0


async def test_many_texts_keep_their_order(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(23)]
    async with TransformerManager(settings(tmp_path)) as manager:
        together = await manager.batch_embed(texts, "fake")
        alone = [await manager.generate_embedding(text, "fake") for text in texts]
    assert together == alone


async def test_concurrent_calls_share_batches(tmp_path: Path) -> None:
    async with TransformerManager(settings(tmp_path)) as manager:
        await manager.load_model("fake")
        await asyncio.gather(
            *(manager.generate_embedding(f"at once {n}", "fake") for n in range(40))
        )
        [row] = (await manager.get_stats())["models"]
    assert row["items"] == 40
    assert row["uses"] < 40


async def test_load_and_unload(tmp_path: Path) -> None:
    async with TransformerManager(settings(tmp_path)) as manager:
        await manager.load_model("fake", pin=True)
        assert (await manager.get_stats())["resident_bytes"] > 0
        await manager.unload_model("fake", force=True)
        assert (await manager.get_stats())["resident_bytes"] == 0


async def test_errors(tmp_path: Path) -> None:
    async with TransformerManager(settings(tmp_path)) as manager:
        with pytest.raises(ModelNotFoundError, match="no model 'nope'; known models"):
            await manager.load_model("nope")
        with pytest.raises(ModelLoadError, match="cannot be loaded"):
            await manager.load_model("broken")
        with pytest.raises(ModelLoadError, match=r"set models\.prime-7b-chat-v1\.source"):
            await manager.load_model("prime-7b-chat-v1")
        with pytest.raises(RequestError, match="empty list"):
            await manager.batch_embed([], "fake")
        with pytest.raises(RequestError, match="for generation, not for embeddings"):
            await manager.generate_embedding("x", "SmolLM2-135M-Instruct")
        with pytest.raises(UnsupportedError, match="decisions endpoint"):
            await manager.classify_intent("x", ["a", "b"])
        with pytest.raises(UnsupportedError, match="generation endpoint"):
            await manager.generate_text("x")
