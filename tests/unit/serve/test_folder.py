"""Model folders: what is read, and how each kind of damage is named."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.encoder_folder import EncoderFolder, Normalize, Pooling
from ironcliw.errors import ModelLoadError
from serve.engines.encoder import load_encoder
from serve.engines.protocol import PackedTokens


@pytest.fixture
def folder(make_folder: Callable[..., Path]) -> Path:
    return make_folder("bert")


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON object; None removes one."""
    content = json.loads(file.read_text()) | changes if file.exists() else changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_minilm_as_it_ships(minilm: Path) -> None:
    folder = EncoderFolder.read(minilm)
    assert folder.max_tokens == 256
    assert folder.head == (Pooling(("mean",)), Normalize())
    assert folder.vocabulary == 30522
    assert (folder.prompts, folder.default_prompt_name) == ({}, None)
    assert folder.similarity == "cosine"
    assert not folder.lowercase
    assert folder.tensors["embeddings.word_embeddings.weight"].shape == (30522, 384)


def test_plain_folder_is_mean_pooled_and_not_normalised(folder: Path) -> None:
    # as sentence-transformers treats a folder without modules.json
    (folder / "modules.json").unlink()
    shutil.rmtree(folder / "1_Pooling")
    assert EncoderFolder.read(folder).head == (Pooling(("mean",)),)
    edit(folder / "config.json", architectures=["SomeForCausalLM"])
    assert EncoderFolder.read(folder).head == (Pooling(("lasttoken",)),)


def test_prompts_window_and_similarity(folder: Path) -> None:
    edit(
        folder / "config_sentence_transformers.json",
        prompts={"query": "query: ", "document": None},
        default_prompt_name="query",
        similarity_fn_name="dot",
    )
    edit(folder / "sentence_bert_config.json", max_seq_length=40, do_lower_case=True)
    read = EncoderFolder.read(folder)
    assert read.prompts == {"query": "query: ", "document": ""}
    assert (read.default_prompt_name, read.similarity) == ("query", "dot")
    assert (read.max_tokens, read.lowercase) == (40, True)
    edit(folder / "config_sentence_transformers.json", default_prompt_name="title")
    with pytest.raises(ModelLoadError, match=r"'title' the default prompt and defines \['doc"):
        EncoderFolder.read(folder)


@pytest.mark.parametrize(
    ("configured", "tokenizer", "positions", "window"),
    [
        (None, None, 64, 64),
        (None, 32, 64, 32),
        (48, 32, 64, 48),
        (500, None, 64, 64),
        (None, 10**30, None, 512),
    ],
)
def test_the_smallest_stated_window_counts(
    folder: Path, configured: int | None, tokenizer: int | None, positions: int | None, window: int
) -> None:
    edit(folder / "sentence_bert_config.json", max_seq_length=configured)
    edit(folder / "tokenizer_config.json", model_max_length=tokenizer)
    edit(folder / "config.json", max_position_embeddings=positions)
    assert EncoderFolder.read(folder).max_tokens == window


def test_roberta_loses_the_positions_of_padding(make_folder: Callable[..., Path]) -> None:
    assert EncoderFolder.read(make_folder("roberta")).max_tokens == 64


@pytest.mark.parametrize("old", ["cls_token", "lasttoken", "mean_sqrt_len_tokens"])
def test_old_pooling_keys(folder: Path, old: str) -> None:
    file = folder / "1_Pooling" / "config.json"
    file.write_text(json.dumps({"word_embedding_dimension": 32, f"pooling_mode_{old}": True}))
    assert EncoderFolder.read(folder).head[0] == Pooling((old.removesuffix("_token"),))


def test_several_poolings_are_joined(folder: Path) -> None:
    edit(folder / "1_Pooling" / "config.json", pooling_mode=["cls", "mean"])
    engine = load_encoder(EncoderFolder.read(folder), device="cpu")
    assert engine.dimensions == 64


def test_shards_are_one_model(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    whole = load_encoder(EncoderFolder.read(folder), device="cpu", precision="float32")
    tensors = load_file(folder / "model.safetensors")
    sharded = tmp_path / "sharded"
    shutil.copytree(folder, sharded)
    (sharded / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, sharded / shard)
    weight_map = {name: shard for shard, inside in shards.items() for name in inside}
    edit(sharded / "model.safetensors.index.json", weight_map=weight_map)
    engine = load_encoder(EncoderFolder.read(sharded), device="cpu", precision="float32")
    batch = PackedTokens.pack([np.arange(5, 20, dtype=np.int32)])
    np.testing.assert_array_equal(engine.embed(batch), whole.embed(batch))
    (sharded / "b.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"b\.safetensors is absent"):
        EncoderFolder.read(sharded)
    edit(sharded / "model.safetensors.index.json", weight_map={"x": "../a.safetensors"})
    with pytest.raises(ModelLoadError, match="outside its folder"):
        EncoderFolder.read(sharded)


@pytest.mark.parametrize("activation", ["Tanh", "Identity", "GELU"])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_and_norm_behind_the_pooling(folder: Path, activation: str, bias: bool) -> None:
    import torch
    from safetensors.torch import save_file

    plain = load_encoder(EncoderFolder.read(folder), device="cpu", precision="float32")
    torch.manual_seed(1)
    linear, norm = torch.nn.Linear(32, 8, bias=bias), torch.nn.LayerNorm(8)
    torch.nn.init.normal_(norm.weight)
    for name, module, prefix in (("2_Dense", linear, "linear."), ("3_LayerNorm", norm, "norm.")):
        (folder / name).mkdir()
        tensors = {prefix + k: v.detach() for k, v in module.named_parameters()}
        save_file(tensors, folder / name / "model.safetensors")
    edit(folder / "2_Dense" / "config.json", activation_function=f"torch.nn.modules.x.{activation}")
    listing = json.loads((folder / "modules.json").read_text())[:2]
    for path in ("2_Dense", "3_LayerNorm"):
        listing.append({"path": path, "type": f"sentence_transformers.models.{path[2:]}"})
    (folder / "modules.json").write_text(json.dumps(listing))
    engine = load_encoder(EncoderFolder.read(folder), device="cpu", precision="float32")
    assert engine.dimensions == 8
    # `plain` normalises, and the layers here act on what is not normalised: so ask for that
    (folder / "modules.json").write_text(json.dumps(listing[:2]))
    raw = load_encoder(EncoderFolder.read(folder), device="cpu", precision="float32")
    batch = PackedTokens.pack([np.arange(5, 20, dtype=np.int32), np.arange(9, 12, dtype=np.int32)])
    pooled = torch.from_numpy(raw.embed(batch))
    assert not np.allclose(raw.embed(batch), plain.embed(batch))
    with torch.inference_mode():
        expected = norm(getattr(torch.nn, activation)()(linear(pooled))).numpy()
    np.testing.assert_allclose(engine.embed(batch), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "match"),
    [
        ("model.safetensors", r"model\.safetensors is absent; copy"),
        ("config.json", r"config\.json is absent"),
        ("1_Pooling/config.json", r"1_Pooling.config\.json is absent"),
    ],
)
def test_absent_files_are_named(folder: Path, file: str, match: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelLoadError, match=match):
        EncoderFolder.read(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="nothing is not a folder"):
        EncoderFolder.read(tmp_path / "nothing")


@pytest.mark.parametrize("file", ["config.json", "modules.json", "1_Pooling/config.json"])
@pytest.mark.parametrize("content", ["{", "\ufffe", "3", '["a"]'])
def test_broken_json_is_named(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(ModelLoadError, match=rf"{Path(file).name} (is not|holds a)"):
        EncoderFolder.read(folder)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1, -5000])
def test_truncated_weights_are_found_before_loading(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:keep])
    with pytest.raises(ModelLoadError, match=r"model\.safetensors.*(cut short|not a whole)"):
        EncoderFolder.read(folder)


def test_trailing_bytes_are_found(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(ModelLoadError, match="longer than its header says"):
        EncoderFolder.read(folder)


@pytest.mark.parametrize("length", [2**63, 2**40, 10**9, 0, 1])
def test_absurd_header_lengths_are_refused_without_reading(folder: Path, length: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    with pytest.raises(ModelLoadError, match=f"its header claims {length} bytes"):
        EncoderFolder.read(folder)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "contradicts itself"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "contradicts itself"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}, "contradicts itself"),
        ({"dtype": "F32", "shape": [1]}, "contradicts itself"),
        ({"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}, "element type 'F3'"),
        (7, "contradicts itself"),
    ],
)
def test_headers_that_lie_are_refused(folder: Path, entry: object, match: str) -> None:
    header = json.dumps({"a": entry}).encode()
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ModelLoadError, match=match):
        EncoderFolder.read(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        EncoderFolder.read(folder)


def test_code_that_comes_with_a_model_is_refused(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModel": "modeling.Mine"})
    with pytest.raises(ModelLoadError, match="auto_map"):
        EncoderFolder.read(folder)


@pytest.mark.parametrize(
    ("kinds", "match"),
    [
        (["models.Transformer", "models.Pooling", "models.CNN"], "is a CNN module"),
        (["models.Transformer"], "begins with Transformer"),
        ([], "begins with nothing"),
    ],
)
def test_modules_that_are_not_supported(folder: Path, kinds: list[str], match: str) -> None:
    paths = ["", "1_Pooling", "2_Other"]
    entries = [
        {"path": path, "type": f"sentence_transformers.{kind}"}
        for path, kind in zip(paths, kinds, strict=False)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(ModelLoadError, match=match):
        EncoderFolder.read(folder)


def test_modules_of_others_and_outside_are_refused(folder: Path) -> None:
    file = folder / "modules.json"
    entries = json.loads(file.read_text())
    entries[1]["path"] = "../elsewhere"
    file.write_text(json.dumps(entries))
    with pytest.raises(ModelLoadError, match="outside its own"):
        EncoderFolder.read(folder)
    entries[1]["type"] = "mine.Pooling"
    file.write_text(json.dumps(entries))
    with pytest.raises(ModelLoadError, match=r"code that comes with the model \(mine\.Pooling\)"):
        EncoderFolder.read(folder)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pooling_mode": "median"}, "asks for pooling 'median'"),
        ({"include_prompt": False}, "without the prompt"),
    ],
)
def test_poolings_that_are_not_supported(folder: Path, changes: dict[str, Any], match: str) -> None:
    edit(folder / "1_Pooling" / "config.json", **changes)
    with pytest.raises(ModelLoadError, match=match):
        EncoderFolder.read(folder)


def test_reading_and_tokenising_need_no_torch(minilm: Path) -> None:
    code = (
        "import sys; from ironcliw.encoder_folder import EncoderFolder;"
        "from serve.engines.tokenizer import TextEncoder;"
        f"TextEncoder(EncoderFolder.read({str(minilm)!r})).encode(['a', 'b']);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)
