"""`ironcliw decide` against a real HTTP server."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ironcliw import console
from tests.unit.ironcliw.streaming import StreamingService, decided, refusal, whole
from tests.unit.serve.command_line import run

REFUSED = {"type": "refusal", "name": None}
AB = ("--label", "a", "--label", "b")


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
        (("--label", "a", "--label", "b"), "give a text, --file FILE, or"),
        (("text", "--file", "in.txt", "--predicate", "a"), "not both"),
        (("text",), "give labels with --label"),
        ((*AB, "text", "--describe", "c=d"), "'c=d' does not begin with a --label"),
        ((*AB, "text", "--example", "a"), "'a' does not begin with a --label"),
        ((*AB, "text", "--level", "low", "--level", "high"), "labels, or levels, and not both"),
        (("text", "--label", "a"), "--label is given once; give two or more, or one statement"),
        (("text", "--level", "low", "--predicate", "a"), "--level is given once"),
        (("text", "--predicate", "a", "--threshold", "0.5"), "go with --label or --level"),
        (("text", "--predicate", "a", "--multi-label"), "go with --label or --level"),
        (("text", "--predicate", "a", "--question", "b"), "go with --label or --level"),
        (("text", "--level", "a", "--level", "b", "--example", "a=c"), "--example goes with"),
        ((*AB, "text", "--threshold", "1.5"), "less than or equal to 1"),
    ],
)
def test_wrong_usage_of_decide(
    server: StreamingService,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert run("decide", *words) == console.EXIT_USAGE
    assert message in " ".join(capsys.readouterr().err.replace("|", " ").split())
    assert server.received == []


def test_what_the_server_refuses(
    server: StreamingService, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer_with(refusal(400, "invalid_value", "each must be unique"))
    assert run("decide", "text", "--label", "a", "--label", "a") == console.EXIT_BAD_REQUEST
    assert capsys.readouterr().err == "error: each must be unique\n"


def scored(**levels: float) -> dict[str, Any]:
    rows = [
        {"label": label, "value": value, "probability": probability}
        for value, (label, probability) in enumerate(levels.items(), start=1)
    ]
    mean = sum(value * probability for value, probability in enumerate(levels.values(), start=1))
    answer = {"score": mean, "confidence": max(levels.values()), "probabilities": rows}
    return {"type": "score", "name": None, **answer}


LEVELS = ("--level", "calm", "--level", "cross", "--level", "furious")


def test_a_place_on_a_scale(server: StreamingService, capsys: pytest.CaptureFixture[str]) -> None:
    answer = scored(calm=0.25, cross=0.5, furious=0.25)
    server.answer_with(*[whole(decided(answer, likely(0.5)))] * 2)
    words = (*LEVELS, "--describe", "cross=somewhat angry", "--question", "How angry is it?")
    assert run("decide", "text", *words, "--predicate", "It is loud.") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "score 2.00 of 3"
    assert [line.split() for line in lines[1:5]] == [
        ["level", "probability"],
        ["calm", "0.2500"],
        ["cross", "0.5000"],
        ["furious", "0.2500"],
    ]
    assert server.bodies[0]["questions"][0] == {
        "type": "score",
        "instructions": "How angry is it?",
        "levels": [
            {"label": "calm"},
            {"label": "cross", "description": "somewhat angry"},
            {"label": "furious"},
        ],
    }
    assert run("decide", "text", *words, "--predicate", "It is loud.", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["level"], document["score"]) == ("cross", 2.0)
    assert document["scores"] == {"calm": 0.25, "cross": 0.5, "furious": 0.25}
    assert document["predicates"] == {"It is loud.": 0.5}


def test_a_scale_for_each_line(
    server: StreamingService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("first\nsecond\n")
    answers = [scored(calm=0.0, cross=0.25, furious=0.75), REFUSED]
    server.answer_with(*[whole(decided(answer)) for answer in answers])
    assert run("decide", "--file", "in.txt", *LEVELS) == 0
    assert table(capsys.readouterr().out) == [
        ["text", "level", "probability", "score"],
        ["first", "furious", "0.7500", "2.75"],
        ["second", "none", "of", "these", "-", "-"],
    ]


def test_threshold_and_multi_label_are_sent(server: StreamingService) -> None:
    server.answer_with(*[whole(decided(chosen(a=0.75, b=0.5)))] * 2)
    assert run("decide", "text", *AB, "--threshold", "0.4", "--multi-label") == 0
    assert run("decide", "text", *AB) == 0
    first, second = server.bodies
    assert (first["refusal_threshold"], first["multi_label"]) == (0.4, True)
    assert not {"refusal_threshold", "multi_label"} & second.keys()


def test_the_text_comes_from_a_pipe(
    server: StreamingService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer_with(whole(decided(chosen(a=0.75, b=0.25))))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"two\nlines\n")))
    assert run("decide", *AB) == 0
    assert server.bodies[0]["input"] == "two\nlines"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b" ")))
    assert run("decide", *AB) == console.EXIT_BAD_REQUEST
    assert "standard input is empty; give a TEXT" in capsys.readouterr().err
