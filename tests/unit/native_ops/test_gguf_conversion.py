"""GGUF to Hugging Face folders: the logits of the model that was written, and a sound cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file

from ironcliw.errors import ModelLoadError
from native_ops import gguf_conversion as conversion
from native_ops.gguf_conversion import converted_folder, source_quantization
from tests.unit.serve.decoders.gguf_models import (
    CHARACTERS,
    END,
    MODELS,
    START,
    TOKENS,
    random_model,
    write_gguf,
    write_sample,
)


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(40)[None] * 7 % len(TOKENS)
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits.float()
    return found


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

    def counted(file: Any, folder: Path, *rest: Any) -> None:
        made.append(folder)
        real(file, folder, *rest)

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
    assert left == {""}  # the index alone


def test_what_a_killed_process_left_is_removed(sample: Path, tmp_path: Path) -> None:
    name = converted_folder(sample, tmp_path / "elsewhere").name
    left = tmp_path / "converted" / f"{name}.abc.partial"
    left.mkdir(parents=True)
    converted_folder(sample, tmp_path)
    assert not left.exists()


def test_two_processes_at_once(sample: Path, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from native_ops.gguf_conversion import converted_folder\n"
        "print(converted_folder(*map(pathlib.Path, sys.argv[1:])))"
    )
    command = [sys.executable, "-c", script, str(sample), str(tmp_path)]
    root = Path(__file__).parents[3]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) for _ in range(2)]
    answers = {process.communicate(timeout=100)[0].decode().strip() for process in running}
    assert not list((tmp_path / "converted").glob("*.lock"))
    assert [process.returncode for process in running] == [0, 0]
    assert answers == {str(converted_folder(sample, tmp_path))}


def test_an_index_that_cannot_be_written_leaves_nothing(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ModelLoadError, match=r"could not be converted into .*no space left"):
        converted_folder(sample, tmp_path)
    assert list((tmp_path / "converted" / "index").iterdir()) == []


def test_a_lock_that_its_holder_removed_is_taken_anew(tmp_path: Path) -> None:
    lock, holding, order = tmp_path / "a.lock", threading.Event(), list[str]()

    def hold(name: str) -> None:
        with conversion._locked(lock):
            order.append(f"{name} in")
            holding.set()
            time.sleep(0.05)
            order.append(f"{name} out")

    threads = [threading.Thread(target=hold, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert holding.is_set()
    entered = [one.split() for one in order]
    assert all(a[0] == b[0] for a, b in zip(entered[::2], entered[1::2], strict=True)), order
    assert not lock.exists()


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
