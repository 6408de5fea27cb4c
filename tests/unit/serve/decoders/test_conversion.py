"""GGUF to Hugging Face folders: the logits of the model that was written, and a sound cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TensorNameMap
from safetensors.torch import load_file

from ironcliw.errors import ModelLoadError
from serve.engines.decoders import conversion
from serve.engines.decoders.conversion import converted_folder, source_quantization

CHARACTERS = [chr(code) for code in range(33, 127)]
TOKENS = [*CHARACTERS, "ab", "<|im_start|>", "<|im_end|>"]
START, END = len(TOKENS) - 2, len(TOKENS) - 1
SIZES = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False, "rope_theta": 5000.0},
    "llama-tied": {"tie_word_embeddings": True, "rms_norm_eps": 1e-5},
    "llama-biased": {"attention_bias": True},
    "llama-3.1": {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "gpt2": {},
}


def random_model(name: str) -> Any:
    import transformers as t

    torch.manual_seed(0)
    kind = name.partition("-")[0]
    if kind == "gpt2":
        sizes: dict[str, Any] = {"vocab_size": len(TOKENS), "n_embd": 64, "n_layer": 2, "n_head": 4}
        model = t.GPT2LMHeadModel(t.GPT2Config(**sizes, n_positions=128))
    else:
        title = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
        config = getattr(t, f"{title}Config")(**SIZES | MODELS[name])
        model = getattr(t, f"{title}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.train(False)
    return model


def permuted(tensor: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py."""
    shape = tensor.shape
    halves = tensor.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
    return halves.swapaxes(1, 2).reshape(shape)


def write_gguf(model: Any, name: str, path: Path, kind: str = "F32") -> None:
    """Write a transformers model as llama.cpp's converter does."""
    architecture = name.partition("-")[0]
    writer = GGUFWriter(path, architecture)
    _add_sizes(writer, model.config, architecture)
    _add_tokenizer(writer)
    names = _names(architecture, model.config.num_hidden_layers)
    for full, tensor in model.state_dict().items():
        if full == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        data = tensor.numpy()
        if architecture == "llama" and (".q_proj." in full or ".k_proj." in full):
            data = permuted(data, 4 if ".q_proj." in full else 2)
        if architecture == "gpt2" and ".c_" in full and data.ndim == 2:
            data = data.T
        target = str(names.get_name(full, try_suffixes=(".weight", ".bias")))
        stored = kind if data.ndim == 2 else "F32"
        blocks = gguf.quants.quantize(np.ascontiguousarray(data), GGMLQuantizationType[stored])
        plain = stored in ("F32", "F16")
        raw = None if plain else GGMLQuantizationType[stored]
        writer.add_tensor(target, blocks, raw_dtype=raw)
    if name == "llama-3.1":
        inverse = 500000.0 ** -(np.arange(0, 16, 2) / 16)
        writer.add_tensor(
            "rope_freqs.weight",
            (inverse / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _names(architecture: str, layers: int) -> TensorNameMap:
    kinds = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(kinds[architecture], layers)


def _add_sizes(writer: GGUFWriter, config: Any, architecture: str) -> None:
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_head_count(4)
    if architecture == "gpt2":
        writer.add_feed_forward_length(256)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(96)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if architecture == "qwen3":
        writer.add_key_length(32)
        writer.add_value_length(32)


def _add_tokenizer(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(CHARACTERS) + 1) + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(START)
    writer.add_eos_token_id(START)
    writer.add_chat_template("{{ messages[0]['content'] }}<|im_end|>")


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(40)[None] * 7 % len(TOKENS)
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits.float()
    return found


def write_sample(path: Path, name: str = "llama-tied", kind: str = "F32") -> Any:
    model = random_model(name)
    write_gguf(model, name, path, kind)
    return model


@pytest.fixture(scope="module")
def sample_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sample") / "sample.gguf"
    write_sample(path)
    return path.read_bytes()


@pytest.fixture
def sample(tmp_path: Path, sample_bytes: bytes) -> Path:
    path = tmp_path / "sample.gguf"
    path.write_bytes(sample_bytes)
    return path


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every folder that is really made, as it is made."""
    made: list[Path] = []
    real = conversion._write_folder

    def counted(file: Any, folder: Path, digest: str) -> None:
        made.append(folder)
        real(file, folder, digest)

    monkeypatch.setattr(conversion, "_write_folder", counted)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_the_folder_is_the_model_that_was_written(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    model = write_sample(tmp_path / "model.gguf", name)
    folder = converted_folder(tmp_path / "model.gguf", tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.float32
    assert type(loaded) is type(model)
    state = loaded.state_dict()
    for full, tensor in model.state_dict().items():
        torch.testing.assert_close(state[full], tensor, rtol=0, atol=0, msg=full)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("Q8_0", "bfloat16"), ("BF16", "bfloat16"), ("F16", "float16")]
)
def test_precision_follows_the_source(tmp_path: Path, kind: str, dtype: str) -> None:
    model = write_sample(tmp_path / "model.gguf", kind=kind)
    folder = converted_folder(tmp_path / "model.gguf", tmp_path)
    assert source_quantization(tmp_path / "model.gguf") == kind
    assert json.loads((folder / "ironcliw.json").read_text())["quantization"] == kind
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    for name, tensor in stored.items():
        blocks = gguf.quants.quantize(model.state_dict()[name].numpy(), GGMLQuantizationType[kind])
        decoded = gguf.quants.dequantize(blocks, GGMLQuantizationType[kind])
        expected = torch.from_numpy(decoded) if tensor.ndim == 2 else model.state_dict()[name]
        # torch's rounding is the oracle of ours
        assert torch.equal(tensor, expected.to(tensor.dtype)), name


def test_configuration_and_tokenizer(sample: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = converted_folder(sample, tmp_path)
    generation = json.loads((folder / "generation_config.json").read_text())
    # <|im_end|> ends an answer although the file names another token
    assert generation["eos_token_id"] == [START, END]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("cab<|im_end|>").input_ids == [66, len(CHARACTERS), END]
    assert tokenizer.bos_token == "<|im_start|>"
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "hi<|im_end|>"
    manifest = json.loads((folder / "ironcliw.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["source"] == "sample.gguf"
    assert folder.name == manifest["sha256"][:32]


def test_a_second_call_neither_converts_nor_hashes(
    sample: Path, tmp_path: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = converted_folder(sample, tmp_path)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert converted_folder(sample, tmp_path) == folder
    assert len(conversions) == 1


def test_a_changed_file_is_another_model(sample: Path, tmp_path: Path) -> None:
    first = converted_folder(sample, tmp_path)
    content = bytearray(sample.read_bytes())
    content[-40] ^= 1
    sample.write_bytes(content)
    os.utime(sample, ns=(1, 1))  # a clock too coarse to tell must not decide this test
    assert converted_folder(sample, tmp_path) != first


def test_the_same_content_elsewhere_is_the_same_model(
    sample: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    first = converted_folder(sample, tmp_path)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(sample.read_bytes())
    assert converted_folder(copy, tmp_path) == first
    assert len(conversions) == 1


def _older_format(folder: Path) -> None:
    manifest = json.loads((folder / "ironcliw.json").read_text())
    (folder / "ironcliw.json").write_text(json.dumps(manifest | {"format_version": 0}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "model.safetensors", 1000),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "ironcliw.json").write_text("{"),
        _older_format,
    ],
    ids=["cut weights", "no config", "spoilt manifest", "older format"],
)
def test_a_damaged_folder_is_made_again(
    sample: Path, tmp_path: Path, conversions: list[Path], damage: Callable[[Path], None]
) -> None:
    folder = converted_folder(sample, tmp_path)
    sound = {file.name: file.read_bytes() for file in folder.iterdir()}
    damage(folder)
    assert converted_folder(sample, tmp_path) == folder
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == sound
    assert len(conversions) == 2


def test_a_damaged_index_is_ignored(sample: Path, tmp_path: Path) -> None:
    folder = converted_folder(sample, tmp_path)
    for entry in (tmp_path / "converted" / "index").iterdir():
        entry.write_text("[]")
    assert converted_folder(sample, tmp_path) == folder


def test_a_newer_format_is_refused(sample: Path, tmp_path: Path) -> None:
    folder = converted_folder(sample, tmp_path)
    manifest = json.loads((folder / "ironcliw.json").read_text())
    newer = manifest | {"format_version": 2, "made_by": "9.0"}
    (folder / "ironcliw.json").write_text(json.dumps(newer))
    with pytest.raises(
        ModelLoadError, match=r"format 2 by ironcliw 9.0.*update ironcliw"
    ) as caught:
        converted_folder(sample, tmp_path)
    assert caught.value.code == "newer_format"


def test_a_failure_leaves_nothing_behind(sample: Path, tmp_path: Path) -> None:
    content = sample.read_bytes()
    sample.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelLoadError, match=r"sample.gguf is cut short"):
        converted_folder(sample, tmp_path)
    left = {path.suffix for path in (tmp_path / "converted").iterdir()}
    assert left == {"", ".lock"}  # the index and the lock


def test_what_a_killed_process_left_is_removed(sample: Path, tmp_path: Path) -> None:
    name = converted_folder(sample, tmp_path / "elsewhere").name
    left = tmp_path / "converted" / f"{name}.abc.partial"
    left.mkdir(parents=True)
    converted_folder(sample, tmp_path)
    assert not left.exists()


def test_two_processes_at_once(sample: Path, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from serve.engines.decoders.conversion import converted_folder\n"
        "print(converted_folder(*map(pathlib.Path, sys.argv[1:])))"
    )
    command = [sys.executable, "-c", script, str(sample), str(tmp_path)]
    root = Path(__file__).parents[4]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) for _ in range(2)]
    answers = {process.communicate(timeout=100)[0].decode().strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert answers == {str(converted_folder(sample, tmp_path))}


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "model.gguf", random_model("llama-tied")
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    write_gguf(model, "llama-tied", path)
    with pytest.raises(ModelLoadError, match=r"'blk.1.ffn_up.weight' holds infinite numbers"):
        converted_folder(path, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b"\x05\0\0\0\0\0\0\0llama",
            b"\x05\0\0\0\0\0\0\0mamba",
            "supported are llama, qwen2, qwen3",
        ),
        (
            b"blk.1.ffn_up.weight",
            b"blk.1.ffn_xy.weight",
            r"lacks 'blk.1.ffn_up.weight' \(1 .* 1 not",
        ),
        (b"llama.block_count", b"llama.block_cound", "'llama.block_count' is absent"),
        (b"llama.block_count\x04\0\0\0\x02", b"llama.block_count\x04\0\0\0\xff", "only 20 tensors"),
        (b"llama.block_count\x04\0\0\0\x02", b"llama.block_count\x04\0\0\0\x01", "not supported"),
        (b"llama.block_count\x04\0\0\0\x02", b"llama.block_count\x04\0\0\0\x00", "not above 0"),
        (
            b"head_count\x04\0\0\0\x04",
            b"head_count\x04\0\0\0\x07",
            "7 attention heads cannot share",
        ),
    ],
)
def test_what_is_not_supported_or_absent_is_named(
    sample: Path, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    content = sample.read_bytes()
    assert old in content
    sample.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ModelLoadError, match=message):
        converted_folder(sample, tmp_path)


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is absent; copy the model file again"):
        converted_folder(tmp_path / "none.gguf", tmp_path)


def test_a_cache_that_cannot_be_written_is_named(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "converted").write_text("a file where the folder should be")
    with pytest.raises(ModelLoadError, match=r"could not be converted into .* can be written"):
        converted_folder(sample, tmp_path)
