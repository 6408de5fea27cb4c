"""References give values with their types, and say why where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.workflow.references import Scope, Template, parse_reference
from actors.workflow.tasks import REFERENCE_KEY, StepError

OUTPUTS: dict[str, Any] = {
    "fetch": {"docs": [{"title": "A", "two words": 1}, {"title": "B"}], "n": 2, "none": None},
    "skipped": None,
    "large": {REFERENCE_KEY: "file:///x"},
}
SCOPE = Scope(
    inputs={"q": "why", "flag": True},
    output_of=OUTPUTS.__getitem__,
    workflow={"id": "wf-1", "name": "answer"},
    item={"k": [1]},
    index=3,
    output=7,
)


def render(value: Any) -> Any:
    return Template(value).render(SCOPE)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${inputs.q}", "why"),
        ("${steps.fetch.n}", 2),
        ("${ steps.fetch.docs[1] }", {"title": "B"}),
        ("${steps.fetch.docs.1.title}", "B"),
        ('${steps.fetch.docs[0]["two words"]}', 1),
        ("${steps.skipped.anything[3].at_all}", None),
        ("${steps.large}", {REFERENCE_KEY: "file:///x"}),
        ("${item.k[0]}", 1),
        ("${index}", 3),
        ("${output}", 7),
        ("${workflow.id}/${workflow.name}", "wf-1/answer"),
        ("n=${steps.fetch.n}, ${inputs.flag}, ${steps.skipped}", "n=2, true, null"),
        ("${inputs.q}: ${steps.fetch.docs[1]}", 'why: {"title":"B"}'),
        ("$${inputs.q} costs $5", "${inputs.q} costs $5"),
        ("plain", "plain"),
    ],
)
def test_a_text_is_rendered(text: str, value: Any) -> None:
    assert render(text) == value


def test_what_holds_references_is_made_anew_and_the_rest_is_kept() -> None:
    plain = {"deep": [1, {"a": None}]}
    found = render({"plain": plain, "list": ["${inputs.q}", 1.5], "n": None})
    assert found == {"plain": plain, "list": ["why", 1.5], "n": None}
    assert found["plain"] is plain


def test_where_references_stand_is_known() -> None:
    template = Template({"a": ["x", "${inputs.q}"], "b": {"c": "${steps.s} and ${index}"}})
    found = [(where, each.text) for where, each in template.references]
    assert found == [("a[1]", "${inputs.q}"), ("b.c", "${steps.s}"), ("b.c", "${index}")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${steps.fetch.titel}", "there is no key 'titel'; there are: 'docs', 'n', 'none'"),
        ("${steps.fetch.docs[2]}", "the list has 2 items, so no item 2"),
        ("${steps.fetch.n.x}", "'x' cannot be looked up in a int"),
        ("${steps.fetch.docs.title}", "'title' cannot be looked up in a list"),
        ("${steps.large.part}", "kept by reference: hand on the whole"),
        ("see ${steps.large}", "cannot stand within a text"),
    ],
)
def test_a_path_that_leads_nowhere_fails_the_step(text: str, message: str) -> None:
    with pytest.raises(StepError, match=message.replace("[", r"\[")) as caught:
        render(text)
    assert caught.value.failure == "invalid"
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${env.HOME}", r"\$\{env.HOME\} is no reference: write \$\{inputs.NAME\}"),
        ("${inputs}", r"names nothing: write \$\{inputs.NAME\}"),
        ("${steps.a b}", None),
        ("${steps.a[x]}", r"cannot be read from '\[x\]' on"),
        ("${steps.a..b}", r"cannot be read from '\.\.b' on"),
        ("${}", "is no reference"),
        ("${inputs.q", "has no closing brace"),
        ("${inputs.${index}}", "has no closing brace"),
    ],
)
def test_a_malformed_reference_is_refused(text: str, message: str | None) -> None:
    if message is None:  # a key may hold a blank
        assert Template(text).references[0][1].name == "a b"
        return
    with pytest.raises(ValueError, match=message):
        Template(text)


@given(st.text())
def test_any_text_renders_or_is_refused(text: str) -> None:
    try:
        template = Template(text)
    except ValueError:
        return
    if not template.references:
        assert template.render(SCOPE) == text.replace("$${", "${")


@given(st.lists(st.from_regex(r"[a-z]+", fullmatch=True) | st.integers(0, 99), max_size=5))
def test_a_path_is_read_as_it_is_written(path: list[str | int]) -> None:
    inside = "item" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    assert parse_reference(inside).path == tuple(path)
