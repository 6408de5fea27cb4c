"""Keys that stand twice are found wherever they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.unique_keys import repeated_key


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"a": 1, "a": 2}', "a"),
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "a.b"),
        ('{"a": [0, {"b": [{"c": 1, "c": 1}]}]}', "a[1].b[0].c"),
        ('[{"a": 1}, {"a": 1, "a": 1}]', "[1].a"),
        ('{"a": {"b": 1, "b": 2}, "a": {}}', "a"),
        ('{"\\u0061": 1, "a": 2}', "a"),
        ('{"": 1, "": 2}', ""),
    ],
)
def test_a_key_that_stands_twice(text: str, path: str) -> None:
    assert repeated_key(text.encode()) == path


@pytest.mark.parametrize("text", ["", "{", '{"a": 1, "a": ', "[" * 100_000, "nonsense", '"a"'])
def test_what_is_no_json_is_left_to_its_reader(text: str) -> None:
    assert repeated_key(text.encode()) is None


_VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_VALUES)
def test_what_is_written_from_dicts_has_none(value: Any) -> None:
    assert repeated_key(json.dumps(value).encode()) is None
