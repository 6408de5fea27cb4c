"""Chat, completions and streams of both clients against a real HTTP server."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ironcliw import AsyncClient, Client
from ironcliw.errors import (
    ContextLengthError,
    DeadlineExceededError,
    IroncliwError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from tests.unit.ironcliw.streaming import (
    CHAT,
    COMPLETIONS,
    PATIENCE_SECONDS,
    Script,
    StreamingService,
    chat_answer,
    chat_chunk,
    event,
    refusal,
    spoken,
    streaming_service,
    whole,
)

Call = Callable[..., Any]
ERROR = {"error": {"message": "the model was unloaded", "type": "t", "code": "unavailable"}}


@pytest.fixture
def server() -> Iterator[StreamingService]:
    with streaming_service() as service:
        yield service


def call_sync(options: dict[str, Any], method: str, *args: Any, **kwargs: Any) -> Any:
    with Client(**options) as client:
        return getattr(client, method)(*args, **kwargs)


def call_async(options: dict[str, Any], method: str, *args: Any, **kwargs: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(**options) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


def read_sync(
    options: dict[str, Any], pieces: list[str], method: str, *args: Any, **kwargs: Any
) -> Any:
    with Client(**options) as client, getattr(client, method)(*args, **kwargs) as stream:
        for piece in stream:
            pieces.append(piece)  # noqa: PERF402  # what came before an error counts
        return stream


def read_async(
    options: dict[str, Any], pieces: list[str], method: str, *args: Any, **kwargs: Any
) -> Any:
    async def run() -> Any:
        async with AsyncClient(**options) as client:
            async with getattr(client, method)(*args, **kwargs) as stream:
                async for piece in stream:
                    pieces.append(piece)  # noqa: PERF401
                return stream

    return asyncio.run(run())


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest, server: StreamingService) -> Call:
    """Calls a method of one client, then of the other."""

    def run(method: str, *args: Any, client: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return request.param({"base_url": server.url, **(client or {})}, method, *args, **kwargs)

    return run


@pytest.fixture(params=[read_sync, read_async], ids=["sync", "async"])
def read(request: pytest.FixtureRequest, server: StreamingService) -> Call:
    """Reads a stream to its end with one client, then the other; the stream itself is returned."""

    def run(
        pieces: list[str], *args: Any, client: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        return request.param({"base_url": server.url, **(client or {})}, pieces, *args, **kwargs)

    return run


def test_chat(call: Call, server: StreamingService) -> None:
    server.answer_with(whole(chat_answer("hello"), x_ironcliw_node="here"))
    answer = call("chat", "hi", temperature=0, seed=7, top_k=None)
    assert (answer.text, answer.finish_reason, answer.model) == ("hello", "stop", "m")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 2)
    assert answer.served.node == "here"
    (path, headers, body) = server.received[0]
    assert path == CHAT
    assert headers["x-request-timeout-seconds"] == "60"
    assert body == {
        "messages": [{"role": "user", "content": "hi"}],
        "model": "SmolLM2-135M-Instruct",
        "temperature": 0,
        "seed": 7,
    }


def test_a_conversation_and_several_answers(call: Call, server: StreamingService) -> None:
    document = chat_answer("one", "two")
    document["choices"].reverse()  # the index says where each belongs
    server.answer_with(whole(document))
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hi"}]
    answer = call("chat", messages, model="other", n=2)
    assert [choice.text for choice in answer.choices] == ["one", "two"]
    assert server.bodies == [{"messages": messages, "model": "other", "n": 2}]


def test_complete(call: Call, server: StreamingService) -> None:
    row = {"index": 0, "text": " time", "finish_reason": "length"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    server.answer_with(whole({"model": "m", "choices": [row], "usage": usage}))
    answer = call("complete", "Once upon a", stop=["."], max_tokens=1)
    assert (answer.text, answer.finish_reason) == (" time", "length")
    assert server.received[0][0] == COMPLETIONS
    assert server.bodies[0]["prompt"] == "Once upon a"
    assert server.bodies[0]["stop"] == ["."]


@pytest.mark.parametrize("document", [{}, {"choices": [], "usage": {}, "model": "m"}, []])
def test_another_programs_answer(call: Call, server: StreamingService, document: Any) -> None:
    server.answer_with(whole(document))
    with pytest.raises(IroncliwError, match="not one of this interface"):
        call("chat", "hi")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_has_no_word_for(
    call: Call, server: StreamingService, value: float
) -> None:
    with pytest.raises(RequestError, match=r"temperature is (nan|inf); give a finite number"):
        call("chat", "hi", temperature=value)
    assert server.received == []


@pytest.mark.parametrize("content", ["\ud800", float("nan"), object()])
def test_what_is_not_json_is_refused(call: Call, server: StreamingService, content: Any) -> None:
    with pytest.raises(RequestError, match="cannot be written as JSON"):
        call("chat", [{"role": "user", "content": content}])
    assert server.received == []


def test_a_stream_comes_in_pieces(read: Call, server: StreamingService) -> None:
    server.answer_with(Script(spoken("Hel", "lo \u20ac", "!"), headers={"x-ironcliw-node": "here"}))
    pieces: list[str] = []
    stream = read(pieces, "stream_chat", "hi", seed=1)
    assert pieces == ["Hel", "lo \u20ac", "!"]
    assert (stream.finish_reason, stream.served.node) == ("stop", "here")
    assert (stream.usage.input_tokens, stream.usage.output_tokens) == (4, 3)
    assert server.bodies[0]["stream"] is True
    assert server.bodies[0]["stream_options"] == {"include_usage": True}
    assert "x-request-timeout-seconds" not in server.received[0][1]


def test_a_completion_streams_too(read: Call, server: StreamingService) -> None:
    chunk = {"choices": [{"index": 0, "text": "abc", "finish_reason": "length"}]}
    server.answer_with([event(chunk), event("[DONE]")])
    pieces: list[str] = []
    stream = read(pieces, "stream", "go on")
    assert (pieces, stream.finish_reason, stream.usage) == (["abc"], "length", None)


def test_packets_cut_anywhere(read: Call, server: StreamingService) -> None:
    content = b"".join(spoken("\U0001f600", "\u2028", "b"))
    server.answer_with([content[at : at + 3] for at in range(0, len(content), 3)])
    pieces: list[str] = []
    read(pieces, "stream_chat", "hi")
    assert pieces == ["\U0001f600", "\u2028", "b"]


def test_the_first_piece_is_there_before_the_last_is_made(server: StreamingService) -> None:
    last = threading.Event()
    server.answer_with(Script([*spoken("a", "b")[:2], b"".join(spoken("a", "b")[2:])], hold=last))
    with Client(server.url) as client, client.stream_chat("hi") as stream:
        assert next(stream) == "a"
        assert stream.finish_reason is None
        last.set()
        assert list(stream) == ["b"]


def test_an_error_event_ends_the_stream_and_is_not_retried(
    read: Call, server: StreamingService
) -> None:
    server.answer_with([event(chat_chunk("a")), event(ERROR)], spoken("again"))
    pieces: list[str] = []
    with pytest.raises(UnavailableError, match="the model was unloaded"):
        read(pieces, "stream_chat", "hi")
    assert pieces == ["a"]
    assert len(server.received) == 1


@pytest.mark.parametrize("broken", [True, False], ids=["connection", "stream"])
def test_a_stream_cut_after_a_piece_is_not_retried(
    read: Call, server: StreamingService, broken: bool
) -> None:
    server.answer_with(Script([event(chat_chunk("a"))], cut=broken), spoken("again"))
    pieces: list[str] = []
    with pytest.raises(UnavailableError, match=r"broke before the answer|ended before the answer"):
        read(pieces, "stream_chat", "hi")
    assert pieces == ["a"]
    assert len(server.received) == 1


@pytest.mark.parametrize(
    "first",
    [
        refusal(429, "overloaded", retry_after_ms="1"),
        refusal(503, "unavailable", retry_after_ms="1"),
        Script([event({"error": {**ERROR["error"], "code": "overloaded"}})]),
        Script([event(chat_chunk(None))], cut=True),
    ],
    ids=["429", "503", "error event", "cut"],
)
def test_what_fails_before_the_first_piece_is_tried_again(
    read: Call, server: StreamingService, first: Script
) -> None:
    server.answer_with(first, spoken("a"))
    pieces: list[str] = []
    assert read(pieces, "stream_chat", "hi").finish_reason == "stop"
    assert pieces == ["a"]
    assert len(server.received) == 2


def test_retries_of_a_stream_end(read: Call, server: StreamingService) -> None:
    server.answer_with(*[refusal(429, "overloaded", "full", retry_after_ms="1")] * 2)
    with pytest.raises(OverloadedError, match="full"):
        read([], "stream_chat", "hi", client={"max_retries": 1})
    assert len(server.received) == 2


def test_a_refused_stream_is_not_retried(read: Call, server: StreamingService) -> None:
    server.answer_with(refusal(400, "context_length_exceeded", "9000 tokens"))
    with pytest.raises(ContextLengthError, match="9000 tokens"):
        read([], "stream_chat", "hi")
    assert len(server.received) == 1


def test_what_breaks_after_the_last_event_does_not_matter(
    read: Call, server: StreamingService
) -> None:
    server.answer_with(Script(spoken("a"), cut=True))
    pieces: list[str] = []
    assert read(pieces, "stream_chat", "hi").finish_reason == "stop"
    assert pieces == ["a"]


def test_an_answer_that_is_no_stream(read: Call, server: StreamingService) -> None:
    server.answer_with(whole(chat_answer("hello")))
    with pytest.raises(IroncliwError, match="application/json and not a stream"):
        read([], "stream_chat", "hi")


def test_a_silent_stream_runs_into_the_time_out(read: Call, server: StreamingService) -> None:
    release = threading.Event()
    server.answer_with(Script([event(chat_chunk("a")), event("[DONE]")], hold=release))
    pieces: list[str] = []
    try:
        with pytest.raises(DeadlineExceededError, match=r"no answer within 0\.2 s"):
            read(pieces, "stream_chat", "hi", client={"timeout": 0.2})
    finally:
        release.set()
    assert pieces == ["a"]


def test_a_stream_has_one_answer(server: StreamingService) -> None:
    with Client(server.url) as client:
        with pytest.raises(RequestError, match="n is 2; a stream has one answer"):
            client.stream_chat("hi", n=2)
    assert server.received == []


def test_leaving_a_stream_closes_the_connection(server: StreamingService) -> None:
    server.answer_with(Script([event(chat_chunk("a"))], endless=True))
    with Client(server.url) as client:
        with client.stream_chat("hi") as stream:
            assert next(stream) == "a"
        assert server.client_left.wait(PATIENCE_SECONDS)
        assert list(stream) == []


def test_dropping_a_stream_closes_the_connection(server: StreamingService) -> None:
    server.answer_with(Script([event(chat_chunk("a"))], endless=True))
    gc.disable()  # it must not hang on a cycle
    try:
        with Client(server.url) as client:
            for piece in client.stream_chat("hi"):
                assert piece == "a"
                break
            assert server.client_left.wait(PATIENCE_SECONDS)
    finally:
        gc.enable()


async def test_leaving_an_asynchronous_stream_closes_the_connection(
    server: StreamingService,
) -> None:
    server.answer_with(Script([event(chat_chunk("a"))], endless=True))
    async with AsyncClient(server.url) as client:
        async with client.stream_chat("hi") as stream:
            assert await anext(stream) == "a"
        assert await asyncio.to_thread(server.client_left.wait, PATIENCE_SECONDS)


async def test_a_cancelled_reader_closes_the_connection(server: StreamingService) -> None:
    server.answer_with(Script([event(chat_chunk("a"))], endless=True))
    begun = asyncio.Event()

    async def read() -> None:
        async with client.stream_chat("hi") as stream:
            async for _ in stream:
                begun.set()

    async with AsyncClient(server.url) as client:
        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), PATIENCE_SECONDS)
        task.cancel()
        await asyncio.wait([task])
        assert await asyncio.to_thread(server.client_left.wait, PATIENCE_SECONDS)
    assert task.cancelled()


def test_both_clients_have_the_same_methods() -> None:
    def surface(client: type) -> dict[str, list[Any]]:
        found = inspect.getmembers(client, inspect.isfunction)
        return {
            name: list(inspect.signature(method).parameters.values())
            for name, method in found
            if not name.startswith("_")
        }

    assert surface(Client) == surface(AsyncClient)
