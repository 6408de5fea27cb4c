"""Requests to one text and typed questions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import RequestError, RequestTooLargeError
from ironcliw.schemas.decisions import DecisionRequest
from serve.decisions.questions import read_input, read_questions, require_template

IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


def request(given_input: Any = "a text", **question: Any) -> DecisionRequest:
    asked = {"type": "predicate", "instructions": "It is so.", **question}
    body = {"model": "m", "input": given_input, "questions": [asked]}
    return DecisionRequest.model_validate(body)


def choice(*values: Any, **more: Any) -> DecisionRequest:
    choices = [value if isinstance(value, dict) else {"value": value} for value in values]
    return request(type="choice", choices=choices, **more)


class TestQuestions:
    def test_a_choice_has_its_options_in_order(self) -> None:
        asked = choice({"value": "a", "description": "the first", "examples": ["x", "y"]}, False)
        (question,) = read_questions(asked)
        assert question.kind == "choice"
        assert [option.value for option in question.options] == ["a", False]
        assert [option.text for option in question.options] == ["a", "false"]
        assert question.options[0].description == "the first"
        assert question.options[0].examples == ("x", "y")

    def test_a_string_and_a_boolean_of_the_same_text_are_distinct(self) -> None:
        (question,) = read_questions(choice("true", True, "True"))
        assert len(question.options) == 3

    def test_levels_are_options(self) -> None:
        asked = request(type="score", levels=[{"label": "low"}, {"label": "high"}])
        assert [option.value for option in read_questions(asked)[0].options] == ["low", "high"]

    def test_instructions_of_parts_are_joined(self) -> None:
        parts = [
            {"type": "input_text", "text": "Look at"},
            {"type": "input_json", "data": {"a": [1, None]}},
        ]
        assert read_questions(request(instructions=parts))[0].instructions == (
            'Look at\n{"a":[1,null]}'
        )

    @pytest.mark.parametrize(
        ("asked", "message", "param"),
        [
            (choice("a", "b", "a"), r"choices\[2\]\.value is 'a', as .*choices\[0\]", "choices"),
            (choice(True, False, True), r"choices\[2\]\.value is True", "choices"),
            (choice("a", " "), r"choices\[1\]\.value is blank", "choices"),
            (choice({"value": "a", "examples": [""]}, "b"), "examples has an empty", "choices"),
            (
                request(type="score", levels=[{"label": "low"}, {"label": "low"}]),
                r"levels\[1\]\.label is 'low'",
                "levels",
            ),
            (request(instructions=" \n"), "instructions is empty", "instructions"),
            (request(instructions=[]), "instructions is empty", "instructions"),
            (request(instructions=[IMAGE]), "no model here reads images", "instructions[0]"),
        ],
    )
    def test_wrong_questions(self, asked: DecisionRequest, message: str, param: str) -> None:
        with pytest.raises(RequestError, match=message) as caught:
            read_questions(asked)
        assert caught.value.param == f"questions[0].{param}"

    @given(st.lists(st.text(min_size=1) | st.booleans(), min_size=2, max_size=12))
    def test_choices_are_accepted_exactly_when_distinct_and_not_blank(
        self, values: list[str | bool]
    ) -> None:
        distinct = len({(type(value), value) for value in values}) == len(values)
        named = all(str(value).strip() for value in values)
        if distinct and named:
            options = read_questions(choice(*values))[0].options
            assert [option.value for option in options] == values
        else:
            with pytest.raises(RequestError, match=r"must be unique|is blank"):
                read_questions(choice(*values))


class TestInput:
    def test_a_string_and_a_single_message_are_the_same(self) -> None:
        parts = [{"type": "input_text", "text": "turn on"}, {"type": "input_text", "text": "now"}]
        assert read_input(request("turn on\nnow")) == "turn on\nnow"
        assert read_input(request([{"role": "user", "content": parts}])) == "turn on\nnow"

    def test_several_turns_say_who_spoke(self) -> None:
        turns = [
            {"role": "system", "content": "Be kind."},
            {"type": "function_call", "call_id": "1", "name": "find", "arguments": '{"q":1}'},
            {"type": "function_call_output", "call_id": "1", "output": "none"},
            {"role": "user", "content": "hello"},
        ]
        assert read_input(request(turns)) == (
            'system: Be kind.\ncall: find({"q":1})\noutput: none\nuser: hello'
        )

    @pytest.mark.parametrize(
        "given_input", ["", "  ", [], [{"role": "user", "content": ""}]], ids=repr
    )
    def test_an_empty_input(self, given_input: Any) -> None:
        with pytest.raises(RequestError, match="input is empty"):
            read_input(request(given_input))

    def test_an_image(self) -> None:
        with pytest.raises(RequestError, match=r"input\[0\]\.content\[0\] is an image") as caught:
            read_input(request([{"role": "user", "content": [IMAGE]}]))
        assert caught.value.status == 400
        assert caught.value.code == "images_unsupported"

    def test_an_output_without_its_call(self) -> None:
        lone = [{"type": "function_call_output", "call_id": "9", "output": "5"}]
        with pytest.raises(RequestError, match=r"call_id is '9' and no call before it"):
            read_input(request(lone))

    def test_a_text_and_json_that_are_too_long(self) -> None:
        with pytest.raises(RequestTooLargeError, match="input has 1000001 characters"):
            read_input(request("a" * 1_000_001))
        part = {"type": "input_json", "data": {"a": "b" * 262_144}}
        with pytest.raises(RequestTooLargeError, match="bytes of JSON; at most 262144"):
            read_input(request([{"role": "user", "content": [part]}]))


def test_a_template_needs_a_place_for_the_label() -> None:
    assert require_template("About {}.") == "About {}."
    with pytest.raises(RequestError, match=r"must contain \{\}, where the label goes"):
        require_template("About {label}.")
