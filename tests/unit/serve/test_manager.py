"""`TransformerManager` in process, with the bundled model and with fakes."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from ironcliw import TransformerManager
from ironcliw.errors import ModelLoadError, ModelNotFoundError, RequestError
from ironcliw.settings import Settings


def settings(tmp_path: Path) -> Settings:
    models = {
        "fake": {"source": "fake:8", "task": "embedding"},
        "broken": {"source": "fake:8?fail=1", "task": "embedding"},
        "writer": {
            "source": "fake:300?text=Hello&kv_bytes=500&seconds=0.005",
            "task": "generation",
        },
        "endless": {"source": "fake:300?endless=1&context=64&seconds=0.005", "task": "generation"},
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
        with pytest.raises(RequestError, match="for embedding, not for generation"):
            await manager.generate_text("x", "fake")


async def test_classify_intent_finds_the_label(tmp_path: Path) -> None:
    labels = ["play music", "set an alarm", "weather report"]
    async with TransformerManager(settings(tmp_path)) as manager:
        found = await manager.classify_intent("will it rain tomorrow in Paris", labels)
        surely = await manager.classify_intent(
            "wake me at seven", labels, examples={"set an alarm": ["get me up at six"]}
        )
        none = await manager.classify_intent("x", labels, refusal_threshold=1.0)
        long = await manager.classify_intent("rain " * 300, labels)
    assert found["label"] == "weather report"
    assert found["confidence"] == found["scores"]["weather report"]
    assert found["confidence"] > max(found["scores"]["play music"], found["scores"]["set an alarm"])
    assert list(found["scores"]) == labels
    assert sum(found["scores"].values()) == pytest.approx(1.0)
    assert surely["label"] == "set an alarm"
    assert none == {"label": None, "confidence": None, "scores": {}, "truncated_tokens": 0}
    assert long["truncated_tokens"] == 300 + 2 - 256


async def test_classify_intent_refuses_what_the_service_refuses(tmp_path: Path) -> None:
    async with TransformerManager(settings(tmp_path)) as manager:
        with pytest.raises(RequestError, match="at least 2 items") as caught:
            await manager.classify_intent("x", ["a"], "fake")
        assert caught.value.param == "questions[0].choices"
        with pytest.raises(RequestError, match=r"'a'.*(twice|repeat|unique)"):
            await manager.classify_intent("x", ["a", "a"], "fake")
        with pytest.raises(RequestError, match="labels has the text 'music'"):
            await manager.classify_intent("x", "music", "fake")
        with pytest.raises(RequestError, match="unknown field 'colour'; known fields: model"):
            await manager.classify_intent("x", ["a", "b"], "fake", colour="red")


async def test_nothing_keeps_a_model_that_was_unloaded(tmp_path: Path) -> None:
    async with TransformerManager(settings(tmp_path)) as manager:
        await manager.generate_text("hi", "writer")
        engines = manager._host.residency.engines
        held = weakref.ref(engines["writer"])
        [row] = (await manager.get_stats())["models"]
        assert row["generation"]["generated_tokens"] > 0
        assert (row["bytes"], row["kv_bytes"]) == (1_000_500, 500)
        await manager.unload_model("writer")
        deadline = time.monotonic() + 20  # the closing thread lets go of it a moment later
        while held() is not None:
            assert time.monotonic() < deadline, "somebody keeps the closed model"
            gc.collect()
            await asyncio.sleep(0.005)
        [row] = (await manager.get_stats())["models"]
        assert not {"generation", "kv_bytes"} & row.keys()


async def test_generate_text(tmp_path: Path) -> None:
    conversation = [{"role": "user", "content": "hi"}]
    async with TransformerManager(settings(tmp_path)) as manager:
        assert await manager.generate_text("hi", "writer") == "Hello"
        assert await manager.generate_text("hi", "writer", max_length=3) == "Hel"
        assert await manager.generate_text("He", "writer", raw=True) == "llo"
        assert await manager.generate_text(conversation, "writer", stop="lo") == "Hel"
        drawn = {
            await manager.generate_text("hi", "endless", seed=seed, max_length=8)
            for seed in (1, 1, 2)
        }
        plain = {
            await manager.generate_text("hi", "endless", seed=seed, max_length=8, do_sample=False)
            for seed in (1, 2)
        }
    assert len(drawn) == 2, "a seed draws the same, another one something else"
    assert len(plain) == 1, "nothing is drawn"


async def test_the_default_length_fits_a_small_context(tmp_path: Path) -> None:
    async with TransformerManager(settings(tmp_path)) as manager:
        assert await manager.generate_text("hi", "endless", raw=True)


async def test_text_comes_in_pieces_and_leaving_frees_the_slot(tmp_path: Path) -> None:
    async with TransformerManager(settings(tmp_path)) as manager:
        pieces = [piece async for piece in manager.stream_text("hi", "writer")]
        assert len(pieces) > 1
        assert "".join(pieces) == "Hello"
        stream = manager.stream_text("hi", "endless")
        await anext(stream)
        await stream.aclose()
        deadline = time.monotonic() + 10
        while any(row["generation"]["running"] for row in (await manager.get_stats())["models"]):
            assert time.monotonic() < deadline, "the slot was not freed"
            await asyncio.sleep(0.005)
