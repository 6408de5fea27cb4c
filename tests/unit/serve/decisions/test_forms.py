"""Bodies of decision requests: what is kept of them, and for how long."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ironcliw.errors import RequestError
from serve.decisions.forms import DecisionForms


def body(name: str, **changes: Any) -> bytes:
    question = {"type": "predicate", "name": name, "instructions": "It is so."}
    return json.dumps({"model": "m", "input": "a", "questions": [question], **changes}).encode()


def test_questions_that_were_read_before_are_the_same_object() -> None:
    forms = DecisionForms()
    _, first = forms.read(body("a"))
    request, again = forms.read(body("a", input="b"))
    assert again is first
    assert request.input == "b"
    with pytest.raises(RequestError, match="unknown field 'colour'"):
        forms.read(body("a", colour="red"))


def test_what_is_kept_is_bounded_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.decisions.forms._MOST_KNOWN_BYTES", 150)
    forms = DecisionForms()
    _, first = forms.read(body("a"))
    _, second = forms.read(body("b"))
    assert forms.read(body("a"))[1] is first
    _, third = forms.read(body("c"))  # in place of the second, which was used longest ago
    assert forms.read(body("a"))[1] is first
    assert forms.read(body("c"))[1] is third
    assert forms.read(body("b"))[1] is not second


def test_questions_that_are_too_long_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.decisions.forms._MOST_KEY_BYTES", 10)
    forms = DecisionForms()
    assert forms.read(body("a"))[1] is not forms.read(body("a"))[1]
