"""Hugging Face folders to GGUF: the model and the tokens come back, and what cannot is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ironcliw.errors import ModelLoadError, UnsupportedError
from native_ops.gguf import GgufFile
from native_ops.gguf_conversion import converted_folder
from native_ops.gguf_export import export_gguf
from native_ops.gguf_text import GgufText
from native_ops.gguf_tokenizer import gguf_tokenizer
from native_ops.packed_linear import quantize_rows_q4
from tests.unit.native_ops.test_gguf_tokenizer import CONTROL, TEXTS, byte_level, sentencepiece
from tests.unit.serve.decoders.gguf_models import MODELS, random_model, write_sample


def folder_of(name: str, tmp_path: Path) -> Path:
    """A folder as others publish one: transformers' own names, and a tokenizer."""
    write_sample(tmp_path / "sample.gguf", name)
    converted = converted_folder(tmp_path / "sample.gguf", tmp_path)
    folder = tmp_path / "folder"
    random_model(name).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / file).write_bytes((converted / file).read_bytes())
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", MODELS)
def test_the_model_comes_back(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = folder_of(name, tmp_path)
    export_gguf(folder, tmp_path / "out.gguf", "f32", name="sample")
    back = converted_folder(tmp_path / "out.gguf", tmp_path)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(each) for each in (back, folder))
    assert type(ours) is type(theirs)
    state = ours.state_dict()
    for full, tensor in theirs.state_dict().items():
        torch.testing.assert_close(state[full], tensor, rtol=0, atol=0, msg=full)
    ids = torch.arange(40)[None] % 90
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-5)
    text, before = GgufText.read(tmp_path / "out.gguf"), GgufText.read(tmp_path / "sample.gguf")
    assert text.end_tokens == before.end_tokens
    assert text.special_tokens == before.special_tokens
    assert text.chat_template == before.chat_template
    assert (text.adds_bos, text.adds_eos) == (before.adds_bos, before.adds_eos)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0", "q4_1"])
def test_matrices_are_rounded_as_asked(tmp_path: Path, kind: Any) -> None:
    folder = folder_of("qwen2", tmp_path)
    export_gguf(folder, tmp_path / "out.gguf", kind, name="sample")
    file = GgufFile.read(tmp_path / "out.gguf")
    assert file.kind == kind.upper()
    weights = load_file(folder / "model.safetensors")
    matrix = weights["model.layers.1.mlp.gate_proj.weight"]
    stored = file.raw("blk.1.ffn_gate.weight").tobytes()
    if kind == "q4_1":
        # as our engines round when they load a folder with 4bit
        assert stored == quantize_rows_q4(matrix).numpy().tobytes()
    else:
        blocks = gguf.quants.quantize(matrix.numpy(), GGMLQuantizationType[kind.upper()])
        assert stored == blocks.tobytes()
    embedding = "Q8_0" if kind.startswith("q4") else kind.upper()
    assert file.tensors["token_embd.weight"].kind == embedding
    assert file.tensors["blk.0.attn_norm.weight"].kind == "F32"
    assert file.tensors["blk.0.attn_q.bias"].kind == "F32"


def test_rows_that_no_blocks_fill_are_halves(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample.gguf", "qwen2", intermediate_size=72)
    folder = converted_folder(tmp_path / "sample.gguf", tmp_path)
    export_gguf(folder, tmp_path / "out.gguf", "q8_0", name="sample")
    tensors = GgufFile.read(tmp_path / "out.gguf").tensors
    assert tensors["blk.0.ffn_down.weight"].kind == "F16"
    assert tensors["blk.0.ffn_gate.weight"].kind == "Q8_0"


def test_a_mistral_without_a_window_is_a_llama(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path)
    change_config(
        folder, model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=None
    )
    export_gguf(folder, tmp_path / "out.gguf", "f32", name="sample")
    assert GgufFile.read(tmp_path / "out.gguf").metadata["general.architecture"] == "llama"
    change_config(folder, sliding_window=64)
    with pytest.raises(UnsupportedError, match="within a sliding window of 64 tokens"):
        export_gguf(folder, tmp_path / "again.gguf", "f32", name="sample")
    assert not (tmp_path / "again.gguf").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt_neox"}, "is a gpt_neox model; as GGUF are written gpt2, llama"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and a GGUF file would say 'silu'"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 5000.0}},
            "scales its rotary embedding by 'dynamic'",
        ),
    ],
)
def test_models_that_a_file_cannot_say(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = folder_of("llama", tmp_path)
    change_config(folder, **changes)
    with pytest.raises(UnsupportedError, match=message):
        export_gguf(folder, tmp_path / "out.gguf", "f32", name="sample")
    assert not (tmp_path / "out.gguf").exists()


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path)
    path = folder / "model.safetensors"
    weights = load_file(path)
    matrix = weights["model.layers.0.mlp.up_proj.weight"]
    save_file({**weights, "model.layers.0.extra.weight": torch.ones(2)}, path)
    with pytest.raises(UnsupportedError, match=r"a tensor 'model.layers.0.extra.weight'"):
        export_gguf(folder, tmp_path / "out.gguf", "f32", name="sample")
    save_file({name: each for name, each in weights.items() if each is not matrix}, path)
    with pytest.raises(UnsupportedError, match=r"lacks 'blk.0.ffn_up.weight'"):
        export_gguf(folder, tmp_path / "out.gguf", "f32", name="sample")
    matrix[0, 0] = 70_000.0
    save_file(weights, path)
    with pytest.raises(UnsupportedError, match=r"up to 7e\+04, more than float16 holds"):
        export_gguf(folder, tmp_path / "out.gguf", "f16", name="sample")
    matrix[0, 0] = torch.nan
    save_file(weights, path)
    with pytest.raises(ModelLoadError, match="holds infinite numbers or NaN"):
        export_gguf(folder, tmp_path / "out.gguf", "q8_0", name="sample")


def byte_tokenizer(splitting: str) -> Any:
    """A trained byte-level BPE that splits texts as one of the known kinds does."""
    entries = byte_level()
    vocab = {token: number for number, token in enumerate(entries["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in entries["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, ignore_merges=splitting == "llama3")
    )
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitting != "words")
    parts: list[Any] = [level]
    if splitting == "digits":
        parts = [pre_tokenizers.Digits(individual_digits=True), level]
    elif splitting == "words":
        parts = [pre_tokenizers.Split("o", "isolated"), level]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROL)
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path, **described: Any) -> None:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "config.json").write_text("{}")


def read_back(metadata: dict[str, Any], folder: Path) -> Any:
    return gguf_tokenizer(GgufFile(folder, metadata, {}, np.empty(0, np.uint8)))


@pytest.mark.parametrize(("splitting", "name"), [("gpt-2", "gpt-2"), ("digits", "smollm")])
def test_the_way_of_splitting_is_found(tmp_path: Path, splitting: str, name: str) -> None:
    from native_ops.gguf_export_tokenizer import tokenizer_metadata

    tokenizer = byte_tokenizer(splitting)
    save_tokenizer(tokenizer, tmp_path, bos_token=CONTROL[0], eos_token={"content": CONTROL[1]})
    found = tokenizer_metadata(tmp_path, tokenizer.get_vocab_size() + 3)
    assert found["tokenizer.ggml.pre"] == name
    assert found["tokenizer.ggml.bos_token_id"] == 0
    assert found["tokenizer.ggml.eos_token_id"] == 1
    assert found["tokenizer.ggml.add_bos_token"] is False
    # rows of the embedding without a token
    assert found["tokenizer.ggml.tokens"][-1] == f"[PAD{tokenizer.get_vocab_size() + 2}]"
    back = read_back(found, tmp_path)
    for text in TEXTS:
        assert back.encode(text).ids == tokenizer.encode(text).ids, text


def test_what_is_put_around_a_text_comes_back(tmp_path: Path) -> None:
    from native_ops.gguf_export_tokenizer import tokenizer_metadata

    tokenizer = byte_tokenizer("gpt-2")
    start, end = CONTROL
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, 0), (end, 1)]
    )
    save_tokenizer(tokenizer, tmp_path, bos_token=start, eos_token=end)
    found = tokenizer_metadata(tmp_path, tokenizer.get_vocab_size())
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.ggml.add_eos_token"] is True
    assert read_back(found, tmp_path).encode("ab").ids == tokenizer.encode("ab").ids


def test_sentencepiece_comes_back(tmp_path: Path) -> None:
    from native_ops.gguf_export_tokenizer import tokenizer_metadata

    entries = sentencepiece()
    made = {
        f"tokenizer.ggml.{name}": np.array(value) if name in ("scores", "token_type") else value
        for name, value in entries.items()
    }
    tokenizer = read_back(made, tmp_path)
    save_tokenizer(tokenizer, tmp_path, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    found = tokenizer_metadata(tmp_path, len(entries["tokens"]))
    assert found["tokenizer.ggml.model"] == "llama"
    assert found["tokenizer.ggml.token_type"].tolist() == entries["token_type"]
    back = read_back(found, tmp_path)
    for text in ("the and then", "  a, b? th\u00e9", "an</s>the", ""):
        assert back.encode(text).ids == tokenizer.encode(text).ids, text


def test_tokenizers_that_a_file_has_no_name_for(tmp_path: Path) -> None:
    from native_ops.gguf_export_tokenizer import tokenizer_metadata

    tokenizer = byte_tokenizer("words")
    save_tokenizer(tokenizer, tmp_path)
    with pytest.raises(UnsupportedError, match="in a way that none of the known ones is"):
        tokenizer_metadata(tmp_path, tokenizer.get_vocab_size())
    lower = byte_tokenizer("gpt-2")
    lower.normalizer = normalizers.Lowercase()
    save_tokenizer(lower, tmp_path)
    with pytest.raises(UnsupportedError, match="in a way that none of the known ones is"):
        tokenizer_metadata(tmp_path, lower.get_vocab_size())
    with pytest.raises(ModelLoadError, match="and the model 5 embeddings"):
        tokenizer_metadata(tmp_path, 5)
    save_tokenizer(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), tmp_path)
    with pytest.raises(UnsupportedError, match="its model is WordLevel, not BPE"):
        tokenizer_metadata(tmp_path, 5)
