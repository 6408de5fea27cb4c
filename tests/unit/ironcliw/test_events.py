"""The reader of server-sent events, whatever the chunks that they come in."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw._calls import served_by
from ironcliw._events import EventReader
from ironcliw._generation import TextEvents
from ironcliw.errors import (
    ContextLengthError,
    DeadlineExceededError,
    IroncliwError,
    UnavailableError,
)


def read(*chunks: bytes) -> list[str]:
    reader = EventReader()
    return [data for chunk in chunks for data in reader.feed(chunk)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_each_event_has_its_data(end: bytes) -> None:
    assert read(b"data: a" + end * 2 + b"data:b" + end * 2) == ["a", "b"]


def test_carriage_returns_alone_end_lines_too() -> None:
    assert read(b"data: a\r\rdata: b\r\r", b"\n") == ["a", "b"]


def test_the_two_halves_of_a_line_end_may_come_apart() -> None:
    assert read(b"data: a\r", b"\ndata: b\r\n\r", b"\n") == ["a\nb"]


def test_comments_names_and_empty_events_are_read_over() -> None:
    text = b": keep-alive\n\nevent: token\nid: 7\nretry: 5\ndata: x\n\nevent: ping\n\n"
    assert read(text) == ["x"]


def test_several_lines_of_data_are_one_event() -> None:
    assert read(b"data: a\ndata\ndata: b\n\n") == ["a\n\nb"]


def test_only_the_first_space_is_no_data() -> None:
    assert read(b"data:   a \n\n") == ["  a "]


def test_a_byte_order_mark_is_no_data() -> None:
    assert read(b"\xef\xbb", b"\xbfdata: a\n\n") == ["a"]


def test_an_event_without_its_empty_line_has_not_come() -> None:
    assert read(b"data: a\n") == []


@pytest.mark.parametrize("text", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_the_standards_line_ends_count(text: str) -> None:
    assert read(f"data: a{text}b\n\n".encode()) == [f"a{text}b"]


def test_a_character_cut_between_chunks_is_whole_again() -> None:
    content = "data: \u20ac\U0001f600\n\n".encode()
    assert read(*(content[at : at + 1] for at in range(len(content)))) == ["\u20ac\U0001f600"]


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1)),
    st.lists(st.integers(0, 200)),
    st.sampled_from(["\n", "\r\n"]),
)
def test_the_chunks_do_not_matter(events: list[str], cuts: list[int], end: str) -> None:
    content = "".join(f": c{end}data: {text}{end}{end}" for text in events).encode()
    places = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    chunks = [content[a:b] for a, b in itertools.pairwise(places)]
    assert read(*chunks) == events


def events() -> TextEvents:
    return TextEvents(served_by({}))


def test_chats_and_completions_both_have_their_text() -> None:
    chat = events()
    assert chat.feed('{"choices": [{"index": 0, "delta": {"role": "assistant"}}]}') == ""
    assert chat.feed('{"choices": [{"index": 0, "delta": {"content": "a"}}]}') == "a"
    assert events().feed('{"choices": [{"index": 0, "text": "b"}]}') == "b"


def test_the_end_and_the_usage_are_kept() -> None:
    chat = events()
    chat.feed('{"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}')
    chat.feed('{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}')
    assert not chat.done
    assert chat.feed("[DONE]") == ""
    chat.finish()
    assert (chat.finish_reason, chat.done) == ("length", True)
    assert chat.usage is not None
    assert (chat.usage.input_tokens, chat.usage.output_tokens) == (3, 2)


def test_a_stream_without_its_end_was_cut() -> None:
    chat = events()
    chat.feed('{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}')
    with pytest.raises(UnavailableError, match="ended before the answer did"):
        chat.finish()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("context_length_exceeded", ContextLengthError),
        ("deadline_exceeded", DeadlineExceededError),
        ("replica_lost", IroncliwError),
    ],
)
def test_an_error_event_is_raised_as_its_class(code: str, expected: type[Exception]) -> None:
    with pytest.raises(IroncliwError, match=r"^said so$") as caught:
        events().feed(json.dumps({"error": {"message": "said so", "type": "t", "code": code}}))
    assert type(caught.value) is expected


@pytest.mark.parametrize("data", ["hello", "[]", '{"choices": [{}]}', '{"choices": [{"text": 1}]}'])
def test_events_of_another_program_are_refused(data: str) -> None:
    with pytest.raises(IroncliwError, match="not one of this interface"):
        events().feed(data)
