"""`ironcliw chat` against a real HTTP server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ironcliw import console
from tests.unit.ironcliw.streaming import (
    PATIENCE_SECONDS,
    Script,
    StreamingService,
    chat_answer,
    chat_chunk,
    event,
    refusal,
    spoken,
    whole,
)
from tests.unit.serve.command_line import run

ROOT = Path(__file__).parents[3]


def test_chat_streams(server: StreamingService, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer_with(Script(spoken("Hel", "lo"), headers={"x-ironcliw-degraded": "waking"}))
    words = ["--system", "be kind", "--temperature", "0.5", "--top-p", "0.9", "--top-k", "40"]
    words += ["--seed", "7", "--max-tokens", "5", "--stop", "x", "--stop", "y", "--model", "m"]
    assert run("chat", "hi", *words) == 0
    output = capsys.readouterr()
    assert output.out == "Hello\n"
    assert output.err == "degraded: waking\n"
    assert server.bodies[0] == {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hi"},
        ],
        "model": "m",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 7,
        "max_tokens": 5,
        "stop": ["x", "y"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_an_answer_that_ends_its_line_gets_no_second_end(
    server: StreamingService, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer_with(spoken("line", "\n", finish="length"))
    assert run("chat", "hi") == 0
    output = capsys.readouterr()
    assert output.out == "line\n"
    assert "the answer was cut" in output.err


def test_chat_without_a_stream(
    server: StreamingService, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer_with(*[whole(chat_answer("hello"))] * 2)
    assert run("chat", "hi", "--no-stream") == 0
    assert capsys.readouterr().out == "hello\n"
    assert run("chat", "hi", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["text"], document["finish_reason"]) == ("hello", "stop")
    assert document["usage"] == {"input_tokens": 4, "output_tokens": 2}
    assert all("stream" not in body for body in server.bodies)
    assert server.bodies[0]["model"] == "SmolLM2-135M-Instruct"


def test_a_stream_that_fails_keeps_what_came_and_says_why(
    server: StreamingService, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer_with(Script([event(chat_chunk("begun"))], cut=True))
    assert run("chat", "hi") == console.EXIT_FAILED
    output = capsys.readouterr()
    assert output.out == "begun\n"
    assert output.err.startswith("error: ")


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"what is \xe2\x82\xac?\n", 0, ""),
        (b" \n", console.EXIT_BAD_REQUEST, "standard input is empty"),
        (b"ab\xff", console.EXIT_BAD_REQUEST, "not UTF-8 at byte 2"),
    ],
)
def test_standard_input_is_the_prompt(
    server: StreamingService,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    code: int,
    message: str,
) -> None:
    server.answer_with(spoken("fine"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run("chat") == code
    assert message in capsys.readouterr().err
    if code == 0:
        assert server.bodies[0]["messages"][0]["content"] == "what is \u20ac?"
    else:
        assert server.received == []


def test_a_temperature_that_is_no_number(
    server: StreamingService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("chat", "hi", "--temperature", "nan") == console.EXIT_BAD_REQUEST
    assert "temperature is nan" in capsys.readouterr().err


class Terminal:
    """`ironcliw chat` with a person at a terminal."""

    def __init__(self, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        # a shell gives what it starts in the background an ignored SIGINT, which children inherit
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ironcliw.cli", "chat", *words],
                cwd=ROOT,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait_for(self, text: str) -> None:
        """Until it is on the screen; then only what comes after it counts."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.seen!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self.seen += os.read(self._ours, 4096).decode()
        self.seen = self.seen.partition(text)[2]

    def close(self) -> int:
        try:
            return self.process.wait(PATIENCE_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._ours)


def test_a_conversation(server: StreamingService) -> None:
    busy = refusal(400, "context_length_exceeded", "too long")
    server.answer_with(spoken("one"), busy, spoken("two"), spoken("three"))
    terminal = Terminal("--system", "be kind")
    terminal.wait_for("> ")
    for text, shown in [("a", "one"), ("b", "error: too long"), ("c", "two")]:
        terminal.type(text + "\n")
        terminal.wait_for(shown)
        terminal.wait_for("> ")
    terminal.type("/what\n")
    terminal.wait_for("/what is no command")
    terminal.type("/reset\n")
    terminal.wait_for("> ")
    terminal.type("d\n")
    terminal.wait_for("three")
    terminal.type("/quit\n")
    assert terminal.close() == 0
    contents = [[one["content"] for one in body["messages"]] for body in server.bodies]
    assert contents == [
        ["be kind", "a"],
        ["be kind", "a", "one", "b"],
        ["be kind", "a", "one", "c"],  # what failed was not said
        ["be kind", "d"],
    ]


def test_ctrl_c_stops_the_answer_and_a_second_one_ends(server: StreamingService) -> None:
    server.answer_with(Script([event(chat_chunk("on and "))], endless=True), spoken("short"))
    terminal = Terminal()
    terminal.wait_for("> ")
    terminal.type("go\n")
    terminal.wait_for("on and on and ")
    terminal.interrupt()
    terminal.wait_for("stopped")
    assert server.client_left.wait(PATIENCE_SECONDS), "the server should stop its work"
    terminal.type("again\n")
    terminal.wait_for("short")
    terminal.wait_for("> ")
    terminal.interrupt()
    # readline writes its prompt before it waits, and sees a signal between the two after a line
    with contextlib.suppress(OSError):  # it may have ended already
        terminal.type("\n")
    assert terminal.close() == 0
    said = server.bodies[1]["messages"]
    assert [one["role"] for one in said] == ["user", "assistant", "user"]
    assert said[1]["content"].startswith("on and on and ")


def test_the_end_of_input_ends_the_conversation(server: StreamingService) -> None:
    terminal = Terminal()
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.close() == 0
    assert server.received == []


def test_a_conversation_is_no_json(server: StreamingService) -> None:
    terminal = Terminal("--json")
    terminal.wait_for("--json needs a PROMPT")
    assert terminal.close() == console.EXIT_USAGE


def test_an_answer_has_an_end_though_nobody_set_one(server: StreamingService) -> None:
    server.answer_with(spoken("fine"), whole(chat_answer("fine")))
    assert run("chat", "hi") == 0
    assert run("chat", "hi", "--no-stream") == 0
    assert [body["max_tokens"] for body in server.bodies] == [512, 512]


def too_long(param: str) -> Script:
    error = {"message": "too long", "type": "t", "param": param, "code": "context_length_exceeded"}
    return whole({"error": error}, 400)


@pytest.mark.parametrize("words", [(), ("--no-stream",)])
def test_a_model_that_holds_less_says_itself_where_to_end(
    server: StreamingService, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    answer = whole(chat_answer("fine")) if words else Script(spoken("fine"))
    server.answer_with(too_long("max_tokens"), answer)
    assert run("chat", "hi", *words) == 0
    assert [body.get("max_tokens") for body in server.bodies] == [512, None]
    assert capsys.readouterr().out == "fine\n"


@pytest.mark.parametrize(
    ("param", "words"), [("messages", ()), ("max_tokens", ("--max-tokens", "512"))]
)
def test_what_is_too_long_otherwise_is_said(
    server: StreamingService,
    capsys: pytest.CaptureFixture[str],
    param: str,
    words: tuple[str, ...],
) -> None:
    server.answer_with(too_long(param))
    assert run("chat", "hi", *words) == console.EXIT_BAD_REQUEST
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "error: too long\n")


def test_an_empty_answer_is_an_empty_line(
    server: StreamingService, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer_with(spoken())
    assert run("chat", "hi") == 0
    assert capsys.readouterr().out == "\n"
