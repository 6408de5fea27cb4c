"""Preferences: every form of a row, its tokens, and every rule that one can break."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.train.small_tokenizers import small
from train.data.examples import Completion, Conversation, Preference, answers, content_key
from train.data.formats import detect, to_example
from train.data.masks import TokenRow
from train.data.options import DataOptions
from train.data.pairs import cut, length_of, tokenize_pair
from train.data.problems import RowError
from train.data.records import Record
from train.data.rows import Block, Row, tokenize_block
from train.tokenizer import TrainingTokenizer

USER = {"role": "user", "content": "hi"}
GOOD = {"role": "assistant", "content": "hello"}
BAD = {"role": "assistant", "content": "no"}
TEXTS = {"prompt": "a", "chosen": "b", "rejected": "c"}


def read(value: dict[str, Any], **options: Any) -> Preference:
    found = to_example(value, DataOptions(**options)).example
    assert isinstance(found, Preference)
    return found


def error(value: dict[str, Any]) -> RowError:
    with pytest.raises(RowError) as caught:
        read(value)
    return caught.value


def test_texts() -> None:
    found = read(TEXTS)
    assert found == Preference(Completion("a", "b"), Completion("a", "c"))
    assert answers(found) == ["b", "c"]
    assert detect(TEXTS) == "preference"


def test_messages_with_and_without_a_prompt() -> None:
    explicit = read({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]})
    implicit = read({"chosen": [USER, GOOD], "rejected": [USER, BAD]})
    for found in (explicit, implicit):
        assert isinstance(found.chosen, Conversation)
        assert [m["content"] for m in found.chosen.messages] == ["hi", "hello"]
        assert found.chosen.supervised == (False, True)
        assert answers(found) == ["hello", "no"]


def test_sharegpt() -> None:
    value = {
        "conversations": [{"from": "human", "value": "hi"}],
        "chosen": {"from": "gpt", "value": "hello"},
        "rejected": {"from": "gpt", "value": "no"},
        "system": "be kind",
    }
    found = read(value)
    assert detect(value) == "sharegpt_preference"
    assert isinstance(found.rejected, Conversation)
    assert [m["role"] for m in found.rejected.messages] == ["system", "user", "assistant"]
    assert found.rejected.supervised == (False, False, True)


def test_columns() -> None:
    value = {"q": "a", "good": "b", "bad": "c"}
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert read(value, columns=columns) == read(TEXTS)


def test_keys_differ_where_a_side_does() -> None:
    keys = {
        content_key(read(TEXTS | change))
        for change in ({}, {"chosen": "d"}, {"rejected": "d"}, {"prompt": "d"})
    }
    swapped = content_key(read(TEXTS | {"chosen": "c", "rejected": "b"}))
    assert len({*keys, swapped}) == 5
    assert content_key(read(TEXTS | {"chosen": " b\n"})) in keys


@pytest.mark.parametrize(
    ("value", "rule", "words"),
    [
        (TEXTS | {"rejected": " b"}, "equal-answers", "chosen and rejected are the same"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "equal-answers", "are the same"),
        (TEXTS | {"rejected": " "}, "empty-content", "rejected is empty"),
        (TEXTS | {"chosen": 3}, "bad-messages", "chosen is 3, a int"),
        (TEXTS | {"chosen": [GOOD]}, "bad-messages", "chosen is [{"),
        ({"chosen": "b", "rejected": "c"}, "bad-messages", "there is no prompt, and chosen is 'b'"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "bad-messages", "from their first message on"),
        ({"chosen": [USER, GOOD], "rejected": [USER]}, "no-assistant-turn", "the roles are user"),
        (TEXTS | {"promt": "a"}, None, None),
        (
            {"conversations": [USER], "chosen": "b", "rejected": BAD},
            "bad-messages",
            "chosen is 'b'",
        ),
        ({"conversations": "x", "chosen": GOOD, "rejected": BAD}, "bad-messages", "is 'x'"),
    ],
)
def test_rules(value: dict[str, Any], rule: str | None, words: str | None) -> None:
    if rule is None:
        assert read(value) == read(TEXTS)
        return
    found = error(value)
    assert found.rule == rule
    assert words is not None and words in found.given
    assert found.stops is (rule != "equal-answers")


def parts(row: TokenRow, tokenizer: TrainingTokenizer) -> tuple[str, str, str]:
    """Prompt, chosen and rejected as texts."""
    assert row.borders is not None
    first, second = row.borders
    pieces = tokenizer.pieces(row.tokens.tolist())
    return "".join(pieces[:first]), "".join(pieces[first:second]), "".join(pieces[second:])


def test_tokens_of_a_conversation() -> None:
    tokenizer = small()
    row = tokenize_pair(read({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}), tokenizer)
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert parts(row, tokenizer) == (prompt, "hello<|im_end|>", "no<|im_end|>")
    assert row.borders is not None
    assert row.supervised.tolist() == [at >= row.borders[0] for at in range(len(row.tokens))]
    assert length_of(row) == len(prompt) - 2 * 11 - 9 + 3 + 6 or length_of(row) == row.borders[1]


def test_equal_beginnings_of_answers_are_not_the_prompts() -> None:
    tokenizer = small()
    row = tokenize_pair(read(TEXTS | {"chosen": "xy", "rejected": "xz"}), tokenizer)
    assert parts(row, tokenizer)[1:] == ("xy<|im_end|>", "xz<|im_end|>")


def test_a_token_over_the_border_belongs_to_the_answer() -> None:
    tokenizer = small(None, merges=(("a", "b"),))
    row = tokenize_pair(
        read({"prompt": "xa", "chosen": "b", "rejected": "c"}), tokenizer, plain_text=True
    )
    assert parts(row, tokenizer) == ("x", "ab<|endoftext|>", "ac<|endoftext|>")


def pair(prompt: int, chosen: list[int], rejected: list[int]) -> TokenRow:
    import numpy as np

    tokens = np.array([*range(100, 100 + prompt), *chosen, *rejected], np.int32)
    supervised = np.arange(len(tokens)) >= prompt
    return TokenRow(tokens, supervised, (prompt, prompt + len(chosen)))


def test_cutting_both_sides() -> None:
    row = pair(3, [1, 2, 3, 4], [5, 6])
    assert length_of(row) == 7
    kept = cut(row, 5)
    assert (kept.tokens.tolist(), kept.borders) == ([100, 101, 102, 1, 2, 5, 6], (3, 5))
    kept = cut(row, 4)
    assert (kept.tokens.tolist(), kept.borders) == ([100, 101, 102, 1, 5], (3, 4))
    assert len(kept.supervised) == 5


@pytest.mark.parametrize(
    ("row", "most", "words"),
    [
        (
            pair(3, [1, 2, 3], [1, 2, 4]),
            5,
            "cut to max_length, 5, chosen and",
        ),
        (pair(3, [1], [2, 3]), 3, "the prompt alone has 3 tokens, and max_length is 3"),
    ],
)
def test_what_cannot_be_cut(row: TokenRow, most: int, words: str) -> None:
    with pytest.raises(RowError, match=words):
        cut(row, most)


def rows(*values: dict[str, Any], **options: Any) -> tuple[Row, ...]:
    records = tuple(Record(at + 1, value) for at, value in enumerate(values))
    block = Block("f.jsonl", 0, 0, records)
    return tokenize_block(block, DataOptions(**options), small()).rows


def test_rows_that_are_left_out_are_told_and_counted() -> None:
    same, long, cut_equal, sound = rows(
        TEXTS | {"rejected": "b"},
        TEXTS | {"prompt": "a" * 90},
        TEXTS | {"chosen": "x" * 40 + "y", "rejected": "x" * 40 + "z"},
        TEXTS,
        max_length=60,
        over_length="truncate",
    )
    assert sound.tokens is not None and sound.problem is None
    assert [row.tokens for row in (same, long, cut_equal)] == [None] * 3
    problems = [row.problem for row in (same, long, cut_equal)]
    assert [p.rule for p in problems if p] == ["equal-answers", "over-length", "equal-answers"]
    assert not any(p.stops for p in problems if p)
    assert "the prompt alone has" in str(problems[1])
    assert "chosen and rejected are the same" in str(problems[2])
