"""Conditions decide as they read, and say what they cannot decide."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.workflow.conditions import Condition
from actors.workflow.references import Scope
from actors.workflow.tasks import StepError

VALUES: dict[str, Any] = {
    "n": 2,
    "share": 0.5,
    "label": "billing",
    "yes": True,
    "nothing": None,
    "hits": [],
    "words": ["a", 1, True],
    "object": {"key": 1},
}


def holds(text: str, inputs: dict[str, Any] | None = None) -> bool:
    scope = Scope(inputs=VALUES if inputs is None else inputs, output_of=lambda name: None)
    return Condition(text).holds(scope)


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "not false",
        "not null",
        "${inputs.yes}",
        "not ${inputs.nothing}",
        "${inputs.share} >= 0.5",
        "${inputs.n} < 2.5 and ${inputs.n} > -1e3",
        "${inputs.label} == 'billing'",
        '${inputs.label} != "travel\\n"',
        "'apple' < 'pear'",
        "${inputs.hits} == []",
        "${inputs.label} in ['travel', 'billing']",
        "3 not in ${inputs.words}",
        "'ill' in ${inputs.label}",
        "'key' in ${inputs.object}",
        "false and 1 < 'never looked at' or true",
        "true or 1 < 'never looked at'",
        "not (true and false) and not not true",
        "(1 == 1.0)",
        "${inputs.nothing} == null",
    ],
)
def test_is_true(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize(
    "text",
    [
        "false",
        "null",
        "${inputs.nothing}",
        "${inputs.n} > 2",
        "true == 1",
        "1 in [true]",
        "'1' == 1",
        "not true or false",
        "${inputs.hits} != []",
    ],
)
def test_is_false(text: str) -> None:
    assert not holds(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${inputs.label}", "a str is neither true nor false: compare it with something"),
        ("not ${inputs.n}", "a int is neither true nor false"),
        ("true and ${inputs.n}", "a int is neither true nor false"),
        ("${inputs.nothing} > 0.5", "a NoneType and a int have no order|a NoneType and a float"),
        ("${inputs.yes} > 0", "a bool and a int have no order"),
        ("'a' < 1", "a str and a int have no order"),
        ("1 in 'a1'", "a int in a str cannot be looked for"),
        ("${inputs.object.nokey} == 1", "there is no key 'nokey'"),
    ],
)
def test_what_cannot_be_decided_fails_the_step(text: str, message: str) -> None:
    with pytest.raises(StepError, match=message) as caught:
        holds(text)
    assert caught.value.failure == "invalid"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has its end where a value"),
        ("1 >", "has its end where a value"),
        ("1 == 2 3", "has '3' where the end, `and` or `or` should stand"),
        ("1 == 2 == 3", "has '== 3' where the end"),
        ("(true", r"has its end where `\)`"),
        ("true)", r"has '\)' where the end"),
        ("[1 2]", "has '2]' where `,`"),
        ("1 not 2", "has '2' where `in`"),
        ("__import__('os')", r"has .__import__\('os'\). where a value"),
        ("open('x')", r"has .open\('x'\). where a value"),
        ("${env.HOME} == 1", "is no reference"),
        ("'open", 'has "\'open" where a value'),
        (r'"\x"', "a number or a text as JSON writes it"),
        ("007 == 7", "a number or a text as JSON writes it"),
        ("(" * 60 + "true" + ")" * 60, "more than 50 brackets in each other"),
        ("[" * 60 + "]" * 60, "more than 50 brackets"),
        ("true " * 1000, "the most is 2000"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Condition(text)


@given(st.text(alphabet="()[]${}inputs.and or not true'\"<>=!1,-e"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        condition = Condition(text)
    except ValueError:
        return
    try:
        condition.holds(Scope(inputs={}, output_of=lambda name: None))
    except StepError:
        pass


BOOLEANS = st.recursive(
    st.sampled_from(["true", "false"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join).map("({})".format)
        | inner.map("not {}".format)
    ),
    max_leaves=12,
)


@given(BOOLEANS)
def test_agrees_with_python_on_booleans(text: str) -> None:
    python = text.replace("true", "True").replace("false", "False")
    # the text is made of the words above only
    assert holds(text) == eval(python)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**9), 10**9))
def test_numbers_compare_as_in_json(left: float, right: int) -> None:
    assert holds(f"{json.dumps(left)} < {right}") == (left < right)
    assert holds(f"${{inputs.x}} >= {right}", {"x": left}) == (left >= right)
