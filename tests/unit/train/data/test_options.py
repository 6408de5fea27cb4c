"""The data section: what it takes and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from train.data.options import DataOptions


def test_one_path_is_a_list_of_one() -> None:
    options = DataOptions.model_validate({"train": "a.jsonl", "eval": ["b", "c"]})
    assert (options.train, options.eval) == (("a.jsonl",), ("b", "c"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trian": "a"}, "trian"),
        ({"eval": ["a"], "eval_share": 0.1}, r"eval names files and eval_share is 0.1; give one"),
        ({"eval_share": 1.0}, "less than 1"),
        ({"max_length": 1}, "greater than or equal to 2"),
        ({"over_length": "cut"}, "'drop', 'truncate' or 'error'"),
        ({"filters": {"min_answer_tokens": 5, "max_answer_tokens": 4}}, "no row would be left"),
        ({"max_length": 8, "filters": {"min_answer_tokens": 8}}, "no row can have both"),
        ({"filters": {"languages": []}}, "languages"),
    ],
)
def test_what_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataOptions.model_validate(given)


def test_options_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DataOptions().max_length = 5  # type: ignore[misc]
