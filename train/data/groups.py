"""Records of texts that are compared by their vectors, to examples and to tokens.

    triplet    {"anchor", "positive", "negative"}; the last a text, or a list of texts
    pair       {"anchor", "positive"}
    labelled   {"text", "label"}

They are read where the model is an encoder; what is no such record is no known form there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.data.builders import Value, checked_text
from train.data.examples import TextGroup
from train.data.masks import TokenRow
from train.data.problems import RowError, shortened
from train.embedding.tokenizer import EncoderTokenizer


def pair(value: Value) -> TextGroup:
    return _group(value["anchor"], value["positive"], ())


def triplet(value: Value) -> TextGroup:
    given = value["negative"]
    negatives = given if isinstance(given, list) else [given]
    if not negatives:
        raise RowError(
            "empty-content", "negative is an empty list", "give a text, or leave the key out"
        )
    return _group(value["anchor"], value["positive"], negatives)


def labelled(value: Value) -> TextGroup:
    text, label = checked_text("text", value["text"]), value["label"]
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise RowError(
            "bad-messages",
            f"label is {shortened(label)}, a {type(label).__name__}",
            "give the label's name, or its number",
        )
    name = " ".join(str(label).replace("_", " ").split())
    return TextGroup(text, checked_text("label", name), labelled=True)


def _group(anchor: Any, positive: Any, negatives: Any) -> TextGroup:
    anchor, positive = checked_text("anchor", anchor), checked_text("positive", positive)
    others = tuple(checked_text("negative", each) for each in negatives)
    for name, text in (("anchor", anchor), *(("a negative", other) for other in others)):
        if text.split() == positive.split():
            raise RowError(
                "equal-texts",
                f"{name} and the positive are the same but for white space",
                "it is left out",
                stops=False,
            )
    return TextGroup(anchor, positive, others)


def tokenize_group(
    example: TextGroup, tokenizer: EncoderTokenizer, most: int | None = None
) -> TokenRow:
    """The tokens of each text, one text after the other; none of them is to be written.

    Args:
        example: The texts.
        tokenizer: Of the encoder.
        most: Tokens that a text is cut to, special ones included; None: it is not cut.

    Raises:
        RowError: the positive has the tokens of the anchor, or of a negative.
    """
    tokens = tokenizer.text_tokens(example.texts, most)
    if not example.labelled:
        _check_tokens(tokens, most)
    lengths = [len(each) for each in tokens]
    joined = np.array([token for each in tokens for token in each], np.int32)
    starts = tuple(np.cumsum([0, *lengths[:-1]]).tolist())
    return TokenRow(joined, np.zeros(len(joined), np.bool_), None, starts, example.labelled)


def _check_tokens(tokens: Sequence[Sequence[int]], most: int | None) -> None:
    """Texts may differ in what a tokenizer does not read, such as case, or behind a cut."""
    anchor, positive, *negatives = tokens
    names = (("anchor", anchor), *(("a negative", other) for other in negatives))
    for name, other in names:
        if other == positive:
            cut = "" if most is None else f"cut to max_length, {most}, "
            raise RowError(
                "equal-texts",
                f"{cut}{name} and the positive have the same tokens",
                "it is left out" if most is None else "it is left out; raise max_length",
                stops=False,
            )


def longest_text(row: TokenRow) -> int:
    """Tokens of the longest text of a row."""
    assert row.starts is not None
    return int(np.diff([*row.starts, len(row.tokens)]).max())
