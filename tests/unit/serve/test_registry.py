"""From a catalogue entry to bytes and engines."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import ModelLoadError
from ironcliw.setting_sections import ServeSettings
from serve.engines.registry import estimate_bytes, load_engine

MakeFolder = Callable[..., Path]


def card(path: Path | str) -> ModelCard:
    source = f"dir:{path}" if isinstance(path, Path) else path
    return dataclasses.replace(Catalog()["all-MiniLM-L6-v2"], id="mine", source=source, bytes=7)


def estimate(model: ModelCard, cache_dir: Path, precision: str = "auto") -> int:
    return estimate_bytes(model, cache_dir, ServeSettings(precision=precision))


def elements(folder: Path) -> int:
    return sum(tensor.elements for tensor in EncoderFolder.read(folder).tensors.values())


def shard(folder: Path) -> None:
    """Split the weights over two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    placed = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(placed.values()):
        part = {name: tensors[name] for name in names if placed[name] == file}
        save_file(part, folder / file)
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def into_subfolder(folder: Path) -> None:
    """As sentence-transformers wrote it once: the transformer in a folder of its own."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).rename(inner / name)
    listing = folder / "modules.json"
    modules = json.loads(listing.read_text())
    modules[0]["path"] = inner.name
    listing.write_text(json.dumps(modules))


def add_dense(folder: Path) -> int:
    """A dense layer behind the rest; returns its bytes in float32."""
    dense = folder / "3_Dense"
    dense.mkdir()
    (dense / "config.json").write_text("{}")
    save_file({"linear.weight": torch.ones(16, 32).half()}, dense / "model.safetensors")
    listing = folder / "modules.json"
    modules = json.loads(listing.read_text())
    modules.append({"path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    listing.write_text(json.dumps(modules))
    return 16 * 32 * 4


@pytest.mark.parametrize(
    ("precision", "each"), [("auto", 4), ("float32", 4), ("bfloat16", 2), ("float16", 2)]
)
def test_a_folder_counts_in_the_precision_it_will_have(
    make_folder: MakeFolder, tmp_path: Path, precision: str, each: int
) -> None:
    folder = make_folder("bert")
    count = elements(folder)
    assert estimate(card(folder), tmp_path, precision) == count * each
    dense = add_dense(folder)
    assert estimate(card(folder), tmp_path, precision) == count * each + dense


def test_what_is_stored_in_half_needs_the_whole(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("bert")
    whole = estimate(card(folder), tmp_path)
    file = folder / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    assert estimate(card(folder), tmp_path) == whole


@pytest.mark.parametrize("change", [shard, into_subfolder])
def test_weights_are_found_where_they_are(
    make_folder: MakeFolder, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = make_folder("bert")
    before = estimate(card(folder), tmp_path)
    change(folder)
    assert estimate(card(folder), tmp_path) == before


def test_weights_that_nobody_loads_do_not_count(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("bert")
    before = estimate(card(folder), tmp_path)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert estimate(card(folder), tmp_path) == before


def test_the_estimate_is_near_what_the_engine_holds(minilm: Path, tmp_path: Path) -> None:
    settings = ServeSettings(device="cpu", precision="float32")
    engine = load_engine(card(minilm), settings, tmp_path)
    # the pooler and the position ids are in the file and are not loaded
    assert engine.resident_bytes <= estimate(card(minilm), tmp_path, "float32")
    assert engine.resident_bytes > 0.98 * estimate(card(minilm), tmp_path)


def test_what_is_not_here_yet_counts_as_published(tmp_path: Path) -> None:
    assert estimate(card("hf:owner/name@main"), tmp_path) == 7
    with pytest.raises(ModelLoadError, match=r"config\.json is absent"):
        estimate(card(tmp_path), tmp_path)


@pytest.mark.parametrize("fake", [True, False])
def test_progress_is_passed_on(make_folder: MakeFolder, tmp_path: Path, fake: bool) -> None:
    told: list[float] = []
    source = "fake:8" if fake else make_folder("bert")
    load_engine(card(source), ServeSettings(device="cpu"), tmp_path, progress=told.append)
    assert told[-1] == 1
    assert len(told) == 1 if fake else len(told) > 10
