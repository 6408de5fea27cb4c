"""Texts and token arrays to tokens, with an exact count of what was cut off."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import ModelLoadError, RequestError
from serve.engines.tokenizer import TextEncoder


@pytest.fixture
def folder(make_folder: Callable[..., Path]) -> Path:
    return make_folder("bert")


@pytest.fixture
def encoder(folder: Path) -> TextEncoder:
    """Words w4 .. w99 are the tokens 4 .. 99; the window is 64."""
    return TextEncoder(EncoderFolder.read(folder))


def test_minilm_as_transformers_has_it(minilm: Path) -> None:
    from transformers import AutoTokenizer

    texts = ["Hello, World!", "", "naive cafe \U0001f600 \u4e2d\u6587", "word " * 400]
    reference = AutoTokenizer.from_pretrained(minilm)(texts, truncation=True, max_length=256)
    encoder = TextEncoder(EncoderFolder.read(minilm))
    many = encoder.encode(texts)
    assert [e.tokens.tolist() for e in many] == reference["input_ids"]
    assert [e.truncated for e in many] == [0, 0, 0, 400 - 254]
    for text, together in zip(texts, many, strict=True):
        (alone,) = encoder.encode([text])
        assert alone.tokens.tolist() == together.tokens.tolist()
        assert alone.truncated == together.truncated
        assert alone.tokens.dtype == np.int32


@pytest.mark.parametrize("count", [1, 61, 62, 63, 64, 124, 125, 1000])
def test_what_was_cut_is_counted_exactly(encoder: TextEncoder, count: int) -> None:
    text = " ".join(["w7"] * count)
    for texts in ([text], [text, "w5"]):
        encoded = encoder.encode(texts)[0]
        kept = min(count, 62)
        assert encoded.tokens.tolist() == [2, *[7] * kept, 3]
        assert encoded.truncated == count - kept


def test_a_prompt_stands_before_each_text(encoder: TextEncoder) -> None:
    encoded = encoder.encode(["w5", "w6"], prompt="w9 ")
    assert [e.tokens.tolist() for e in encoded] == [[2, 9, 5, 3], [2, 9, 6, 3]]


def test_no_texts_and_padding_set_in_the_file(encoder: TextEncoder, folder: Path) -> None:
    assert encoder.encode([]) == []
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["padding"] = {
        "strategy": {"Fixed": 20},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    file.write_text(json.dumps(content))
    fresh = TextEncoder(EncoderFolder.read(folder))
    assert fresh.encode(["w5"])[0].tokens.tolist() == [2, 5, 3]


def test_texts_are_lowercased_where_the_folder_says_so(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    encoder = TextEncoder(EncoderFolder.read(folder))
    assert encoder.encode(["W5"])[0].tokens.tolist() == [2, 5, 3]


def test_the_left_is_cut_where_the_folder_says_so(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    encoder = TextEncoder(EncoderFolder.read(folder))
    encoded = encoder.encode([" ".join(["w7"] * 62 + ["w8"])])[0]
    assert encoded.tokens.tolist() == [2, *[7] * 61, 8, 3]
    assert encoded.truncated == 1
    assert encoder.check([4, *[5] * 64]).tokens.tolist() == [5] * 64


def test_token_arrays_are_taken_as_they_are(encoder: TextEncoder) -> None:
    encoded = encoder.check([2, 5, 99, 3])
    assert (encoded.tokens.tolist(), encoded.truncated) == ([2, 5, 99, 3], 0)
    assert encoded.tokens.dtype == np.int32
    long = encoder.check([5] * 70)
    assert (long.tokens.tolist(), long.truncated) == ([5] * 64, 6)


@pytest.mark.parametrize(
    ("tokens", "index", "shown"),
    [
        ([5, 100], 1, "100"),
        ([-1], 0, "-1"),
        ([5, 6, 2**31], 2, "2147483648"),
        ([5, 2**70], 1, "1180591620717411303424"),
        ([5, 1.5], 1, "1.5"),
        ([5, "6"], 1, "'6'"),
        ([True, False], 0, "True"),
        ([[5], [6]], 0, r"\[5\]"),
        ([5] * 70 + [100], 70, "100"),
    ],
)
def test_bad_tokens_are_named(encoder: TextEncoder, tokens: Any, index: int, shown: str) -> None:
    with pytest.raises(RequestError, match=f"token {index} is {shown}; .* 0 to 99") as caught:
        encoder.check(tokens)
    assert caught.value.param == "input"


def test_an_empty_array_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(RequestError, match="token array is empty"):
        encoder.check([])


def test_threads_may_share_one(encoder: TextEncoder) -> None:
    texts = [" ".join([f"w{4 + i % 90}"] * (1 + i % 80)) for i in range(400)]
    expected = [e.tokens.tolist() for e in encoder.encode(texts)]
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda text: encoder.encode([text])[0].tokens.tolist(), texts)
        assert list(results) == expected


def test_old_vocabulary_files_are_converted(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]
    (folder / "vocab.txt").write_text("\n".join(words))
    encoder = TextEncoder(EncoderFolder.read(folder))
    assert encoder.encode(["Hello world"])[0].tokens.tolist() == [2, 5, 6, 3]


def test_absent_and_damaged_tokenizers_are_named(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text('{"version": "1.0"')
    read = EncoderFolder.read(folder)
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json is damaged"):
        TextEncoder(read)
    file.unlink()
    with pytest.raises(ModelLoadError, match="has no tokenizer"):
        TextEncoder(read)


def test_a_window_without_room_is_refused(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 2}')
    with pytest.raises(ModelLoadError, match="a window of 2 tokens leaves no room"):
        TextEncoder(EncoderFolder.read(folder))
