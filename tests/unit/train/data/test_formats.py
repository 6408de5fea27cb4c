"""Records to examples: every form, and every rule that a record can break."""

from __future__ import annotations

from typing import Any

import pytest

from train.data.examples import Completion, Conversation, Text, answers, content_key
from train.data.formats import detect, to_example
from train.data.options import DataOptions
from train.data.problems import RowError

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
SYSTEM = {"role": "system", "content": "be kind"}


def read(value: dict[str, Any], **options: Any) -> Any:
    return to_example(value, DataOptions(**options)).example


def turns(value: dict[str, Any], **options: Any) -> list[tuple[str, str, bool]]:
    found = read(value, **options)
    assert isinstance(found, Conversation)
    return [
        (m["role"], m["content"], s) for m, s in zip(found.messages, found.supervised, strict=True)
    ]


def test_messages() -> None:
    assert turns({"messages": [SYSTEM, USER, ANSWER, USER, ANSWER]}) == [
        ("system", "be kind", False),
        ("user", "hi", False),
        ("assistant", "hello", True),
        ("user", "hi", False),
        ("assistant", "hello", True),
    ]


def test_the_last_answer_alone() -> None:
    found = turns({"messages": [USER, ANSWER, USER, ANSWER, USER]}, train_on="last")
    assert [taught for _, _, taught in found] == [False, False, False, True, False]
    found = turns({"messages": [SYSTEM, USER, ANSWER, USER, ANSWER]}, train_on="last")
    assert [taught for _, _, taught in found] == [False] * 4 + [True]
    assert read({"prompt": "a", "completion": "b"}, train_on="last") == Completion("a", "b")


def test_weights_parts_tools_and_values() -> None:
    call = [{"type": "function", "function": {"name": "f"}}]
    found = read(
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}] * 2},
                {"role": "assistant", "content": None, "tool_calls": call, "weight": 0},
                {"role": "tool", "content": "1", "tool_call_id": "x"},
                {**ANSWER, "weight": 1, "name": None},
            ],
            "tools": '[{"name": "f"}]',
            "chat_template_kwargs": {"enable_thinking": False},
        }
    )
    assert found.messages == (
        {"role": "user", "content": "aa"},
        {"role": "assistant", "content": "", "tool_calls": call},
        {"role": "tool", "content": "1", "tool_call_id": "x"},
        ANSWER,
    )
    assert found.supervised == (False, False, False, True)
    assert found.tools == ({"name": "f"},)
    assert found.values == {"enable_thinking": False}


def test_sharegpt() -> None:
    value = {
        "system": "be kind",
        "conversations": [
            {"from": "human", "value": "a"},
            {"from": "function_call", "value": "f()"},
            {"from": "observation", "value": "1"},
            {"from": "gpt", "value": "b"},
        ],
    }
    assert turns(value) == [
        ("system", "be kind", False),
        ("user", "a", False),
        ("assistant", "f()", True),
        ("tool", "1", False),
        ("assistant", "b", True),
    ]
    assert turns({"conversations": [USER, ANSWER], "system": ""}) == [
        ("user", "hi", False),
        ("assistant", "hello", True),
    ]


def test_alpaca() -> None:
    value = {
        "instruction": "add",
        "input": "1 2",
        "output": "3",
        "system": "count",
        "history": [["a", "b"]],
    }
    assert turns(value) == [
        ("system", "count", False),
        ("user", "a", False),
        ("assistant", "b", True),
        ("user", "add\n1 2", False),
        ("assistant", "3", True),
    ]
    empty = {"instruction": "add", "input": "", "output": "3", "system": None, "history": None}
    assert turns(empty) == [("user", "add", False), ("assistant", "3", True)]


def test_prompt_and_completion() -> None:
    assert read({"prompt": "a ", "completion": "b"}) == Completion("a ", "b")
    value = {"prompt": [SYSTEM, USER, ANSWER, USER], "completion": [ANSWER]}
    assert [taught for _, _, taught in turns(value)] == [False, False, False, False, True]


def test_columns() -> None:
    columns = {"prompt": "question", "completion": "answer"}
    found = to_example({"question": "a", "answer": "b", "id": 3}, DataOptions(columns=columns))
    assert (found.example, found.format, found.ignored) == (
        Completion("a", "b"),
        "prompt_completion",
        ("id",),
    )
    with pytest.raises(RowError, match=r"no key 'answer'; its keys are \['question'\]; correct"):
        read({"question": "a"}, columns=columns)


def test_detection_takes_the_first_of_several() -> None:
    both = {"prompt": "a", "completion": "b", "messages": []}
    assert detect(both) == "messages"
    assert detect({"instruction": 1, "output": 2}) == "alpaca"
    assert detect({"prompt": 1}) is None
    assert read(both, format="prompt_completion") == Completion("a", "b")


BAD = [
    ({}, "unknown-keys", "the row's keys are none, which is no known format"),
    ({"question": "a", "answer": "b"}, "unknown-keys", "keys are answer, question, .* columns"),
    ({"messages": None}, "unknown-keys", "keys are none"),
    (
        {"anchor": "a", "positive": "b"},
        "unknown-keys",
        "the format pair, which an embedding model learns from, .* choose another model",
    ),
    (
        {"instruction": "a", "output": "b", "sytem": "c"},
        "unknown-keys",
        "the key 'sytem' is not known; did you mean 'system'",
    ),
    ({"messages": []}, "bad-messages", r"the conversation is \[\]"),
    ({"messages": "hi"}, "bad-messages", "the conversation is 'hi'"),
    ({"messages": ["hi"]}, "bad-messages", "message 1 is 'hi'"),
    ({"messages": [{"content": "a"}]}, "unknown-role", "message 1 has no role"),
    ({"messages": [USER, {"role": "bot", "content": "a"}]}, "unknown-role", "2 has the role 'bot'"),
    ({"messages": [{"role": ["user"], "content": "a"}]}, "unknown-role", r"role \['user'\]"),
    ({"messages": [{"role": "user"}, ANSWER]}, "empty-content", "1, the user's, has no content"),
    (
        {"messages": [USER, {"role": "assistant", "content": " \n"}]},
        "empty-content",
        "2, the assistant's, has an empty content; fill it",
    ),
    (
        {"messages": [USER, {"role": "assistant", "content": 5}]},
        "bad-messages",
        "content of message 2 is 5, a int",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
        "bad-messages",
        "message 1 has the part",
    ),
    ({"messages": [USER, {**ANSWER, "weight": 2}]}, "bad-messages", "message 2 has weight 2"),
    ({"messages": [USER, {**ANSWER, "weight": 0}]}, "zero-supervised", "each has weight 0"),
    ({"messages": [USER]}, "no-assistant-turn", "the roles are user; add the answer"),
    ({"messages": [SYSTEM, SYSTEM, USER, ANSWER]}, "two-systems", "messages 1, 2 are all"),
    ({"messages": [USER, SYSTEM, ANSWER]}, "misplaced-system", "message 2 is the system's"),
    ({"messages": [{**USER, "content": "\ud800"}, ANSWER]}, "bad-utf8", "half of a surrogate"),
    ({"messages": [USER, ANSWER], "tools": "x"}, "bad-messages", "tools is 'x'"),
    (
        {"messages": [USER, ANSWER], "chat_template_kwargs": [1]},
        "bad-messages",
        "chat_template_kwargs is",
    ),
    ({"conversations": [{"from": "human", "value": ""}]}, "empty-content", "an empty content"),
    ({"instruction": "a", "output": ""}, "empty-content", "message 2, the assistant's"),
    ({"instruction": "a", "output": "b", "history": ["c"]}, "bad-messages", "history holds 'c'"),
    ({"prompt": "", "completion": "b"}, "empty-content", "prompt is empty"),
    ({"prompt": "a", "completion": 3}, "bad-messages", "completion is 3, a int"),
    ({"prompt": "a", "completion": [ANSWER]}, "bad-messages", "two texts, or as two lists"),
    ({"prompt": [USER, ANSWER], "completion": [USER]}, "zero-supervised", "stands in the prompt"),
    ({"prompt": ["a"], "completion": [ANSWER]}, "bad-messages", "a message is 'a'"),
    ({"prompt": "a", "completion": "\udc00"}, "bad-utf8", "completion holds half"),
]


@pytest.mark.parametrize(("value", "rule", "message"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_named(value: dict[str, Any], rule: str, message: str) -> None:
    with pytest.raises(RowError, match=message) as caught:
        read(value)
    assert caught.value.rule == rule
    assert caught.value.advice


def test_a_format_that_is_given_must_fit() -> None:
    with pytest.raises(RowError, match="lacks instruction, output, which the format alpaca has"):
        read({"messages": [USER, ANSWER]}, format="alpaca")


class TestKeys:
    """What counts as the same row."""

    def test_white_space_and_form_do_not_count(self) -> None:
        a = content_key(Completion("one  two\n", "b"))
        assert a == content_key(Completion("one two", " b"))
        assert a == content_key(Completion("one two", "b").as_conversation())
        assert len(a) == 32

    @pytest.mark.parametrize(
        "other",
        [
            {"messages": [USER, {**ANSWER, "content": "Hello"}]},
            {"messages": [SYSTEM, USER, ANSWER]},
            {"messages": [USER, ANSWER], "tools": [{"name": "f"}]},
            {"messages": [USER, ANSWER], "chat_template_kwargs": {"a": 1}},
            {"messages": [USER, {**ANSWER, "name": "x"}]},
            {"messages": [ANSWER, USER]},
        ],
    )
    def test_everything_else_does(self, other: dict[str, Any]) -> None:
        assert content_key(read(other)) != content_key(read({"messages": [USER, ANSWER]}))

    def test_which_turn_is_learnt_counts(self) -> None:
        value = {"messages": [USER, ANSWER, USER, ANSWER]}
        assert content_key(read(value)) != content_key(read(value, train_on="last"))


def test_answers_are_what_is_learnt() -> None:
    value = {"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "content": "two"}]}
    assert answers(read(value)) == ["two"]
    assert answers(Completion("a", "b")) == ["b"]


def test_a_plain_text() -> None:
    found = to_example({"text": " once upon a time\n", "id": 3}, DataOptions())
    assert found.example == Text(" once upon a time\n")
    assert (found.format, found.ignored) == ("text", ("id",))
    # a column of that name beside another form's keys is not read
    both = {"prompt": "a", "completion": "b", "text": "a b"}
    assert to_example(both, DataOptions()).format == "prompt_completion"
    last = DataOptions(train_on="last")
    assert to_example({"text": "a"}, last).example == Text("a")
    assert content_key(Text("a  b")) == content_key(Text("a b")) != content_key(Text("ab"))


@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        ({"text": "  "}, "empty-content", "text is empty"),
        ({"text": ["a"]}, "bad-messages", "text is .*, a list"),
        ({"text": "\ud800"}, "bad-utf8", "text holds half of a surrogate pair"),
    ],
)
def test_a_wrong_text(value: dict[str, Any], rule: str, message: str) -> None:
    with pytest.raises(RowError, match=message) as raised:
        to_example(value, DataOptions())
    assert raised.value.rule == rule
