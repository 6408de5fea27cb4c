"""Options of `generate` become fields of a request."""

from __future__ import annotations

from typing import Any

import pytest

from ironcliw.errors import RequestError
from ironcliw.schemas.generation import CompletionRequest
from serve.generation_options import Wanted, checked, request_fields


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "max_length"])
def test_the_length_has_three_names(name: str) -> None:
    assert request_fields({name: 7}, 100) == {"max_tokens": 7}


@pytest.mark.parametrize(("context", "length"), [(0, 256), (64, 64), (8192, 256)])
def test_the_default_length_fits_the_context(context: int, length: int) -> None:
    assert request_fields({}, context) == {"max_tokens": length}


def test_do_sample_follows_the_temperature() -> None:
    def temperature(**options: Any) -> Any:
        return request_fields(options, 0).get("temperature")

    assert temperature(temperature=0.7) == 0.7
    assert temperature(temperature=0.7, do_sample=True) == 0.7
    assert temperature(do_sample=True) is None
    assert temperature(temperature=0.7, do_sample=False) == 0.0


def test_what_is_none_is_left_to_the_model() -> None:
    assert request_fields({"top_k": None, "stop": ["a"]}, 0) == {"stop": ["a"], "max_tokens": 256}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_tokens": 1, "max_length": 2}, "max_tokens and max_length are names of one option"),
        ({"num_beams": 4}, "'num_beams' is no option; known ones: do_sample, freq"),
        ({"n": 2}, "'n' is no option"),
        ({"do_sample": "yes"}, "do_sample is 'yes'; give True or False"),
        ({"do_sample": True, "temperature": 0}, "at which nothing is drawn"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        request_fields(options, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", float("nan")), ("max_tokens", -1), ("top_p", 2.0), ("max_tokens", 2**70)],
)
def test_a_value_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"^{field} must .*; given: ") as caught:
        checked(CompletionRequest, {"model": "m", "prompt": "a", field: value})
    assert caught.value.param == field


def test_a_text_is_a_message_or_goes_on() -> None:
    without_template = RequestError("no", code="no_chat_template")
    asked = Wanted.of("hi", raw=False, system=None)
    assert asked.messages == [{"role": "user", "content": "hi"}]
    assert asked.may_complete(without_template)
    assert not asked.may_complete(RequestError("another"))
    assert Wanted.of("hi", raw=True, system=None) == Wanted(None, "hi")


def test_what_only_a_template_can_say_is_never_dropped() -> None:
    without_template = RequestError("no", code="no_chat_template")
    told = Wanted.of("hi", raw=False, system="be kind")
    said = Wanted.of([{"role": "user", "content": "hi"}], raw=False, system="be kind")
    for wanted in (told, said):
        assert wanted.messages is not None
        assert [one["content"] for one in wanted.messages] == ["be kind", "hi"]
        assert not wanted.may_complete(without_template)


@pytest.mark.parametrize(("prompt", "system"), [("hi", "be kind"), ([{"role": "user"}], None)])
def test_raw_is_one_text(prompt: Any, system: str | None) -> None:
    with pytest.raises(RequestError, match="raw goes on with one text as it is"):
        Wanted.of(prompt, raw=True, system=system)
