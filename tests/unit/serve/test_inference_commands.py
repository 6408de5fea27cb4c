"""`ironcliw decide` and `ironcliw chat` against a real HTTP server."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ironcliw import console
from ironcliw.cli import main
from tests.unit.ironcliw.streaming import (
    PATIENCE_SECONDS,
    Script,
    StreamingService,
    chat_answer,
    chat_chunk,
    decided,
    event,
    refusal,
    spoken,
    streaming_service,
    whole,
)

ROOT = Path(__file__).parents[3]
REFUSED = {"type": "refusal", "name": None}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StreamingService]:
    """The command line talks to this server, and finds no settings of the developer's own."""
    monkeypatch.chdir(tmp_path)
    with streaming_service() as service:
        monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", service.url)
        yield service


def run(*words: str) -> int:
    """Run a command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0)


def chosen(**scores: float) -> dict[str, Any]:
    rows = [{"value": label, "probability": score} for label, score in scores.items()]
    label = max(scores, key=lambda name: scores[name])
    found = {"choice": label, "confidence": scores[label], "probabilities": rows}
    return {"type": "choice", "name": None, **found}


def likely(probability: float) -> dict[str, Any]:
    return {"type": "predicate", "name": None, "probability": probability}


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_decide_ranks_the_labels(
    server: StreamingService, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer_with(whole(decided(chosen(music=0.25, light=0.75))))
    assert run("decide", "lamp on", "--label", "music", "--label", "light") == 0
    rows = table(capsys.readouterr().out)
    assert rows == [["label", "probability"], ["light", "0.7500"], ["music", "0.2500"]]
    assert server.bodies[0]["model"] == "all-MiniLM-L6-v2"
    assert "method" not in server.bodies[0]


def test_decide_sends_descriptions_examples_and_the_method(server: StreamingService) -> None:
    server.answer_with(whole(decided(chosen(a=1.0), likely(0.5))))
    words = ["--label", "a", "--label", "a=b", "--describe", "a=c=d", "--example", "a=b=x"]
    words += ["--example", "a=b=y", "--predicate", "It is loud.", "--method", "nli"]
    assert run("decide", "text", *words, "--model", "m") == 0
    body = server.bodies[0]
    assert (body["model"], body["method"]) == ("m", "nli")
    choice, predicate = body["questions"]
    assert choice["choices"] == [
        {"value": "a", "description": "c=d"},
        {"value": "a=b", "examples": ["x", "y"]},
    ]
    assert predicate == {"type": "predicate", "instructions": "It is loud."}


def test_no_label_fits(server: StreamingService, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer_with(*[whole(decided(REFUSED, likely(0.125)))] * 2)
    words = ("decide", "text", "--label", "a", "--label", "b", "--predicate", "It is loud.")
    assert run(*words) == console.EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "none of these"
    assert lines[2].split() == ["It", "is", "loud.", "0.1250"]
    assert run(*words, "--json") == console.EXIT_OK
    assert json.loads(capsys.readouterr().out) == {
        "text": "text",
        "label": None,
        "scores": {},
        "predicates": {"It is loud.": 0.125},
    }


def test_decide_a_file(
    server: StreamingService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("first\nsecond\n")
    server.answer_with(*[whole(decided(chosen(a=0.75, b=0.25))), whole(decided(REFUSED))] * 2)
    words = ("decide", "--file", "in.txt", "--label", "a", "--label", "b")
    assert run(*words) == 0
    assert table(capsys.readouterr().out) == [
        ["text", "label", "probability"],
        ["first", "a", "0.7500"],
        ["second", "none", "of", "these", "-"],
    ]
    assert [body["input"] for body in server.bodies] == ["first", "second"]
    assert run(*words, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["label"] for line in lines] == ["a", None]
    assert lines[0]["scores"] == {"a": 0.75, "b": 0.25}


def test_decide_says_what_the_answer_lacks(
    server: StreamingService, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {**decided(likely(0.5)), "truncated_tokens": 7}
    server.answer_with(whole(body, x_ironcliw_degraded="spot is waking"))
    assert run("decide", "text", "--predicate", "It is loud.") == 0
    errors = capsys.readouterr().err
    assert "7 tokens beyond the model's window were cut" in errors
    assert "degraded: spot is waking" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give a text"),
        (("text", "--file", "in.txt", "--label", "a"), "not both"),
        (("text",), "give labels with --label"),
        (("text", "--label", "a", "--describe", "b=c"), "'b=c' does not begin with a --label"),
        (("text", "--label", "a", "--example", "a"), "'a' does not begin with a --label"),
    ],
)
def test_wrong_usage_of_decide(
    server: StreamingService,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    assert run("decide", *words) == console.EXIT_USAGE
    assert message in " ".join(capsys.readouterr().err.replace("|", " ").split())
    assert server.received == []


def test_what_the_server_refuses(
    server: StreamingService, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer_with(refusal(400, "invalid_value", "choices has 1 item; give at least 2"))
    assert run("decide", "text", "--label", "a") == console.EXIT_BAD_REQUEST
    assert capsys.readouterr().err == "error: choices has 1 item; give at least 2\n"


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
