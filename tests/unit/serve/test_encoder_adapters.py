"""Encoder adapters against peft: alone, several in a batch, beside texts under none."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ironcliw.catalog import Catalog
from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import AdapterError, RequestError, UnsupportedError
from ironcliw.schemas import EmbeddingRequest
from ironcliw.setting_sections import AdapterSettings, ModelSettings, ServeSettings
from serve.embeddings import EmbeddingService
from serve.engines.encoder import load_encoder
from serve.engines.encoder_adapters import EncoderAdapter
from serve.engines.packed import PackedEncoder
from serve.engines.padded import PaddedEncoder
from serve.engines.protocol import AdaptedTokens, PackedTokens, Vectors
from serve.host import ModelHost
from serve.variants import LocalVariant
from tests.unit.serve.lora_encoders import merged, save_adapter

Texts = list[Any]


def texts_of(count: int = 6, seed: int = 0) -> Texts:
    random = np.random.default_rng(seed)
    return [random.integers(4, 100, int(random.integers(1, 20))).astype(np.int32) for _ in range(count)]  # fmt: skip  # noqa: E501


def loaded(base: Path, precision: str = "float32") -> PackedEncoder:
    return cast(
        PackedEncoder, load_encoder(EncoderFolder.read(base), device="cpu", precision=precision)
    )


def embed(engine: PackedEncoder, texts: Texts, under: list[int], adapters: list[Any]) -> Vectors:
    batch = PackedTokens.pack(texts)
    cards: Any = tuple(range(len(adapters)))
    whole = PackedTokens(batch.tokens, batch.lengths, cards, np.array(under, np.int32))
    return engine.embed_adapted(whole, adapters)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize(
    ("precision", "close"), [("float32", 2e-5), ("bfloat16", 3e-2), ("int8", 6e-2)]
)
def test_a_mixed_batch_is_what_peft_says(
    kind: str, precision: str, close: float, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_folder(kind)
    folders = [save_adapter(base, tmp_path / str(seed), seed) for seed in (0, 1)]
    engine = loaded(base, precision)
    try:
        adapters = [engine.read_adapter(folder) for folder in folders]
    except UnsupportedError:
        pytest.skip(f"no compiled kernels for {precision} here")
    texts = texts_of()
    found = embed(engine, texts, [0, -1, 1, 1, 0, -1], adapters)
    for number, folder in enumerate(folders):
        places = [(0, 4), (2, 3)][number]
        wanted = merged(base, folder, [texts[at] for at in places])
        assert np.abs(found[list(places)] - wanted).max() < close
    plain = engine.embed(PackedTokens.pack([texts[1], texts[5]]))
    assert np.array_equal(found[[1, 5]], plain)
    assert np.abs(found[0] - engine.embed(PackedTokens.pack([texts[0]]))).max() > 1e-2


def test_the_next_batch_may_have_others(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    base = make_folder("bert")
    engine = loaded(base)
    adapters = [
        engine.read_adapter(save_adapter(base, tmp_path / str(seed), seed)) for seed in range(3)
    ]
    texts = texts_of(3)
    alone = [embed(engine, [text], [0], [a]) for text, a in zip(texts, adapters, strict=True)]
    together = embed(engine, texts, [0, 1, 2], adapters)
    turned = embed(engine, texts, [2, 1, 0], adapters[::-1])
    assert np.array_equal(np.concatenate(alone), together)
    assert np.array_equal(together, turned)


def test_some_layers_rslora_and_own_ranks(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    base = make_folder("bert")
    engine = loaded(base)
    folder = save_adapter(
        base,
        tmp_path / "a",
        0,
        target_modules=["query", "value", "output.dense"],
        use_rslora=True,
        rank_pattern={"query": 2},
    )
    texts = texts_of(2)
    found = embed(engine, texts, [0, 0], [engine.read_adapter(folder)])
    assert np.abs(found - merged(base, folder, texts)).max() < 2e-5


def test_what_it_holds_is_counted(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    base = make_folder("bert")
    adapter = loaded(base).read_adapter(save_adapter(base, tmp_path / "a", 0))
    assert isinstance(adapter, EncoderAdapter)
    # of two layers, float32: A in panels of 32 ranks, though there are 4, and B; and the ranks
    layer = 32 * (5 * 32 + 64) + 4 * (4 * 32 + 64 + 32)
    assert adapter.resident_bytes == 2 * layer * 4 + 2 * 6 * 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LoRA is served"),
        ({"use_dora": True}, "DoRA"),
        ({"r": 8}, "rank 8 on this model asks for"),
        (
            {"lora_alpha": 1e50},
            "B of query of layer 0 holds a number that is not fin",
        ),
    ],
)
def test_adapters_that_are_not_served(
    changes: dict[str, Any], words: str, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_folder("bert")
    folder = save_adapter(base, tmp_path / "a", 0)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(AdapterError, match=words):
        loaded(base).read_adapter(folder)


def test_an_adapter_of_another_model(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    other = save_adapter(make_folder("distilbert"), tmp_path / "a", 0)
    with pytest.raises(AdapterError, match="which is no matrix of a layer of this model"):
        loaded(make_folder("bert")).read_adapter(other)


def test_engines_without_adapters(make_folder: Callable[..., Path]) -> None:
    engine = load_encoder(EncoderFolder.read(make_folder("mpnet")), device="cpu")
    assert isinstance(engine, PaddedEncoder)
    assert not hasattr(engine, "read_adapter")


def test_packing_knows_each_adapter_once() -> None:
    cards: Any = ["a", "b"]
    texts = texts_of(4)
    packed = PackedTokens.pack(
        [texts[0], AdaptedTokens(texts[1], cards[1]), AdaptedTokens(texts[2], cards[0]),
         AdaptedTokens(texts[3], cards[1])]
    )  # fmt: skip
    assert packed.adapters == ("b", "a")
    assert packed.under.tolist() == [-1, 0, 1, 0]
    part = packed.part(np.array([2, 0]))
    assert part.under.tolist() == [1, -1]
    assert np.array_equal(part.tokens, np.concatenate([texts[2], texts[0]]))


@pytest.fixture
def service(make_folder: Callable[..., Path], tmp_path: Path) -> Any:
    base = make_folder("bert")
    folders = {str(seed): save_adapter(base, tmp_path / f"a{seed}", seed) for seed in (0, 1)}
    models = {"tiny": ModelSettings(source=f"dir:{base}", task="embedding")}
    adapters = {
        name: AdapterSettings(base="tiny", source=f"dir:{folder}")
        for name, folder in {**folders, "gone": tmp_path / "nowhere"}.items()
    }
    settings = ServeSettings(precision="float32", device="cpu")
    catalog = Catalog(models, adapters)
    host = ModelHost(catalog, settings, tmp_path / "models", "here")
    return host, catalog, settings, base, folders


def test_requests_for_several_adapters_share_a_batch(service: Any, tmp_path: Path) -> None:
    host, catalog, settings, base, folders = service
    batches: list[PackedTokens] = []

    async def scenario() -> dict[str, Any]:
        variant = LocalVariant(host)
        real = variant.embed

        async def spied(model_id: str, batch: PackedTokens, deadline: float) -> Any:
            batches.append(batch)
            return await real(model_id, batch, deadline)

        variant.embed = spied  # type: ignore[method-assign]
        embeddings = EmbeddingService(catalog, settings, variant, tmp_path)

        async def one(model: str) -> Any:
            return await embeddings.embed(EmbeddingRequest(model=model, input=[5, 6, 7]), None)

        names = ["tiny", "tiny:0", "tiny:1"]
        for name in names[1:]:
            await one(name)  # loaded
        embeddings.content_cache.forget("tiny:0")
        embeddings.content_cache.forget("tiny:1")
        batches.clear()
        found = dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
        with pytest.raises(AdapterError, match=r"adapter_config\.json is absent"):
            await one("tiny:gone")
        again = await one("tiny:0")
        assert again.served.cached
        await embeddings.close()
        await host.close()
        return found

    found = asyncio.run(scenario())
    assert len(batches) == 1
    assert [card.model_id for card in batches[0].adapters] == ["tiny:0", "tiny:1"]
    text = [np.array([5, 6, 7], np.int32)]
    for name, folder in folders.items():
        result = found[f"tiny:{name}"]
        assert result.served.model == f"tiny:{name}"
        assert np.abs(result.vectors - merged(base, folder, text)).max() < 2e-5


def test_an_adapter_that_is_gone_fails_no_neighbour(service: Any, tmp_path: Path) -> None:
    host, catalog, settings, _, folders = service

    async def scenario() -> list[Any]:
        embeddings = EmbeddingService(catalog, settings, LocalVariant(host), tmp_path)

        async def one(model: str, word: int = 5) -> Any:
            return await embeddings.embed(EmbeddingRequest(model=model, input=[word, 6, 7]), None)

        for name in ("tiny:0", "tiny:1"):
            await one(name)
        # evicted, and its files are gone
        await host.unload("tiny:1", force=True)
        shutil.rmtree(folders["1"])
        asked = [one("tiny", 8), one("tiny:0", 8), one("tiny:1", 8), one("tiny", 9)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        # the next one is refused before it joins a batch
        with pytest.raises(AdapterError, match="is absent; name the folder"):
            await one("tiny:1", 10)
        await embeddings.close()
        await host.close()
        return list(found)

    base, first, gone, other = asyncio.run(scenario())
    assert isinstance(gone, AdapterError)
    assert "is absent; name the folder" in str(gone)
    assert [found.served.model for found in (base, first, other)] == ["tiny", "tiny:0", "tiny"]


def test_adapters_that_have_no_room_together_come_one_after_the_other(
    service: Any, tmp_path: Path
) -> None:
    _, catalog, settings, *_ = service
    small = settings.model_copy(update={"memory_bytes": 10_000_000})
    host = ModelHost(catalog, small, tmp_path / "models", "here")
    host._estimates |= {"tiny:0": 6_000_000, "tiny:1": 6_000_000}

    async def scenario() -> list[Any]:
        embeddings = EmbeddingService(catalog, small, LocalVariant(host), tmp_path)

        async def one(model: str, word: int = 5) -> Any:
            return await embeddings.embed(EmbeddingRequest(model=model, input=[word, 6, 7]), None)

        names = ("tiny", "tiny:0", "tiny:1")
        for name in names:
            await one(name, 8)
        async with asyncio.timeout(20):  # of the 30 s that a load waits for room
            found = await asyncio.gather(*map(one, names), return_exceptions=True)
        await embeddings.close()
        await host.close()
        return list(found)

    assert [each.served.model for each in asyncio.run(scenario())] == ["tiny", "tiny:0", "tiny:1"]


def test_a_head_makes_no_vectors(service: Any) -> None:
    host, catalog, *_ = service
    catalog.adapters._configured["head"] = catalog.adapters.find("tiny", "0")
    object.__setattr__(catalog.adapters._configured["head"], "kind", "head")
    with pytest.raises(RequestError, match="is a head, which decides; for vectors, ask for 'tiny'"):
        asyncio.run(host.embed("tiny:head", PackedTokens.pack(texts_of(1))))
