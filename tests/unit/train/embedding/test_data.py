"""Rows of texts that are compared: every form, its tokens, and every rule that one can break."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import UnsupportedError
from ironcliw.settings import Settings
from serve.engines.tokenizer import TextEncoder
from tests.unit.train.embedding.encoders import make_encoder
from train.data.examples import TextGroup, content_key, split_key
from train.data.formats import to_example
from train.data.options import DataOptions
from train.data.prepare import prepare
from train.data.problems import RowError
from train.data.rows import blocks_of, tokenize_block
from train.embedding.tokenizer import EncoderTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> EncoderTokenizer:
    folder = make_encoder(tmp_path_factory.mktemp("models") / "encoder")
    return EncoderTokenizer.load_encoder(str(folder), Settings())


def read(value: dict[str, Any], **options: Any) -> TextGroup:
    found = to_example(value, DataOptions(**options), groups=True).example
    assert isinstance(found, TextGroup)
    return found


def error(value: dict[str, Any], **options: Any) -> RowError:
    with pytest.raises(RowError) as caught:
        read(value, **options)
    return caught.value


def test_forms() -> None:
    assert read({"anchor": "a", "positive": "b"}) == TextGroup("a", "b")
    assert read({"anchor": "a", "positive": "b", "negative": None}) == TextGroup("a", "b")
    assert read({"anchor": "a", "positive": "b", "negative": "c"}) == TextGroup("a", "b", ("c",))
    many = read({"anchor": "a", "positive": "b", "negative": ["c", "d"]})
    assert many.texts == ("a", "b", "c", "d")
    assert read({"text": "a", "label": "card_lost"}) == TextGroup("a", "card lost", labelled=True)
    assert read({"text": "a", "label": 3}) == TextGroup("a", "3", labelled=True)
    assert read({"q": "a", "d": "b"}, columns={"anchor": "q", "positive": "d"}).positive == "b"


@pytest.mark.parametrize(
    ("value", "rule", "words"),
    [
        ({"anchor": "a"}, "unknown-keys", "no known format .*pair: anchor, positive"),
        ({"text": "a"}, "unknown-keys", "no known format .*labelled: label, text"),
        ({"message": []}, "unknown-keys", "name your keys in columns, such as {anchor: query}"),
        (
            {"messages": []},
            "unknown-keys",
            "the format messages, which a model that writes learns from, and this is an embedding",
        ),
        ({"anchor": "a", "positive": 3}, "bad-messages", "positive is 3, a int; give a text"),
        ({"anchor": " ", "positive": "b"}, "empty-content", "anchor is empty"),
        ({"text": "a", "label": "_"}, "empty-content", "label is empty"),
        ({"text": "a", "label": True}, "bad-messages", "label is True, a bool; give the label's"),
        ({"anchor": "a", "positive": "a "}, "equal-texts", "anchor and the positive are the same"),
        (
            {"anchor": "a", "positive": "b", "negative": ["c", "b"]},
            "equal-texts",
            "a negative and the positive are the same",
        ),
        ({"anchor": "a", "positive": "b", "negative": []}, "empty-content", "an empty list"),
    ],
)
def test_what_a_row_can_have_wrong(value: dict[str, Any], rule: str, words: str) -> None:
    found = error(value)
    assert found.rule == rule
    with pytest.raises(RowError, match=words):
        raise found


def test_a_form_for_another_kind_of_model() -> None:
    assert "is not for this kind of model" in str(error({"text": "a"}, format="text"))
    with pytest.raises(RowError, match="pair is not for this kind of model; give auto"):
        to_example({"anchor": "a", "positive": "b"}, DataOptions(format="pair"))


def test_a_text_with_a_label_is_still_a_text_for_a_language_model() -> None:
    found = to_example({"text": "a", "label": "b"}, DataOptions())
    assert (found.format, found.ignored) == ("text", ("label",))


def test_keys() -> None:
    given = [
        {"anchor": "a", "positive": "b"},
        {"anchor": "b", "positive": "a"},
        {"anchor": "a", "positive": "b", "negative": "c"},
        {"text": "a", "label": "b"},
    ]
    assert len({content_key(read(value)) for value in given}) == 4
    spaced = {"anchor": " a", "positive": "b\n"}
    assert content_key(read(spaced)) == content_key(read(given[0]))


def test_positives_of_one_anchor_are_held_out_together() -> None:
    pairs = [read({"anchor": "a", "positive": word}) for word in ("b", "c")]
    assert split_key(pairs[0]) == split_key(pairs[1])
    texts = [read({"text": word, "label": "x"}) for word in ("b", "c")]
    assert split_key(texts[0]) != split_key(texts[1])


def rows_of(text: str, tokenizer: EncoderTokenizer, **options: Any) -> Any:
    given = DataOptions(**options)
    blocks = [
        tokenize_block(block, given, tokenizer) for block in blocks_of("a.jsonl", 0, text.encode())
    ]
    return prepare(["a.jsonl"], blocks, given)[0]


def test_tokens_of_rows(tokenizer: EncoderTokenizer) -> None:
    found = rows_of(
        '{"anchor": "w5 w6", "positive": "w7"}\n'
        '{"anchor": "w8", "positive": "w9", "negative": ["w10", "w11"]}\n',
        tokenizer,
    )
    assert not found.report.problems
    row = found.train.row(1)
    assert row.tokens.tolist() == [2, 8, 3, 2, 9, 3, 2, 10, 3, 2, 11, 3]
    assert row.starts == (0, 3, 6, 9)
    assert not row.supervised.any()


def test_mixed_forms_of_a_file(tokenizer: EncoderTokenizer) -> None:
    text = '{"anchor": "w5", "positive": "w7"}\n{"text": "w8", "label": "w9"}\n'
    (problem,) = rows_of(text, tokenizer).report.problems
    assert problem.rule == "mixed-schema"


@pytest.mark.parametrize(
    ("over_length", "rows", "words"),
    [
        ("drop", 1, "the row has 8 tokens, more than max_length, 5; it is left out"),
        ("truncate", 2, "its last 3 tokens are cut"),
        ("error", 1, "raise max_length"),
    ],
)
def test_texts_that_are_too_long(
    over_length: str, rows: int, words: str, tokenizer: EncoderTokenizer
) -> None:
    text = '{"text": "w5 w6 w7 w8 w9 w10", "label": "w4"}\n{"text": "w5", "label": "w4"}\n'
    found = rows_of(text, tokenizer, over_length=over_length, max_length=5)
    (problem,) = found.report.problems
    assert words in str(problem)
    assert len(found.train) == rows
    if over_length == "truncate":
        assert found.train.row(0).tokens.tolist() == [2, 5, 6, 7, 3, 2, 4, 3]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"anchor": "w5 x", "positive": "w5 y"}, "anchor and the positive have the same tokens"),
        (
            {"anchor": "w4", "positive": "w5 w6 w7 w8", "negative": ["w9", "w5 w6 w7 w9"]},
            "cut to max_length, 5, a negative and the positive have the same tokens: it is left",
        ),
    ],
)
def test_texts_that_become_equal_are_told_and_counted(
    row: dict[str, Any], words: str, tokenizer: EncoderTokenizer
) -> None:
    text = json.dumps(row) + '\n{"anchor": "w5", "positive": "w7"}\n'
    found = rows_of(text, tokenizer, over_length="truncate", max_length=5)
    (problem,) = found.report.problems
    assert words in str(problem)
    assert found.report.left_out == {"equal-texts": 1}
    assert len(found.train) == 1 and not problem.stops


def _cut(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    encoder = TextEncoder(EncoderFolder.read(folder))
    return [item.tokens.tolist() for item in encoder.encode(texts)]


def test_tokens_are_those_that_serving_reads(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    uses = '{"prompts": {"query": "w60 "}, "default_prompt_name": "query"}'
    (folder / "config_sentence_transformers.json").write_text(uses)
    tokenizer = EncoderTokenizer.load_encoder(str(folder), Settings())
    texts = ["w5", "w5 w6 w7 w8 w9 w10 w11"]
    assert tokenizer.context == 6
    assert tokenizer.text_tokens(texts, 6) == _cut(folder, ["w60 " + text for text in texts])
    (folder / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    left = EncoderTokenizer.load_encoder(str(folder), Settings())
    assert left.text_tokens(texts, 6) == _cut(folder, ["w60 " + text for text in texts])


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedError, match="embedding models are trained from a folder"):
        EncoderTokenizer.load_encoder(str(tmp_path / "model.gguf"), Settings())
