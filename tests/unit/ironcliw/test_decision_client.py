"""Decisions and classification of both clients against a real HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ironcliw import AsyncClient, Client
from ironcliw.client import ChoiceAnswer, PredicateAnswer, Refusal, ScoreAnswer
from ironcliw.errors import IroncliwError, ModelNotFoundError, RequestError
from ironcliw.schemas.decisions import DecisionRequest
from tests.unit.ironcliw.streaming import (
    DECISIONS,
    StreamingService,
    decided,
    refusal,
    streaming_service,
    whole,
)

Call = Callable[..., Any]
CHOICE = {
    "type": "choice",
    "name": None,
    "choice": "b",
    "confidence": 0.7,
    "probabilities": [{"value": "a", "probability": 0.3}, {"value": "b", "probability": 0.7}],
}


@pytest.fixture
def server() -> Iterator[StreamingService]:
    with streaming_service() as service:
        yield service


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, server: StreamingService) -> Call:
    """Calls a method of one client, then of the other."""

    def run(name: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "sync":
            with Client(server.url) as client:
                return getattr(client, name)(*args, **kwargs)
        return asyncio.run(run_async(name, *args, **kwargs))

    async def run_async(name: str, *args: Any, **kwargs: Any) -> Any:
        async with AsyncClient(server.url) as client:
            return await getattr(client, name)(*args, **kwargs)

    return run


def test_every_kind_of_answer(call: Call, server: StreamingService) -> None:
    levels = [{"label": "low", "value": 1, "probability": 1.0}]
    score = {"type": "score", "name": "s", "score": 1.0, "confidence": 1.0, "probabilities": levels}
    predicate = {"type": "predicate", "name": "p", "probability": 0.25}
    body = decided(CHOICE, predicate, score, {"type": "refusal", "name": None})
    server.answer_with(whole({**body, "truncated_tokens": 3}, x_ironcliw_node="here"))
    answer = call("decide", "text", [{"type": "predicate", "instructions": "x"}], method="nli")
    assert answer.answers == (
        ChoiceAnswer(None, "b", 0.7, {"a": 0.3, "b": 0.7}),
        PredicateAnswer("p", 0.25),
        ScoreAnswer("s", 1.0, 1.0, {"low": 1.0}),
        Refusal(None),
    )
    assert (answer.usage.input_tokens, answer.truncated_tokens) == (5, 3)
    assert answer.served.node == "here"
    assert server.received[0][0] == DECISIONS
    assert server.bodies[0]["method"] == "nli"


def test_a_conversation_and_an_extension(call: Call, server: StreamingService) -> None:
    server.answer_with(whole(decided({"type": "refusal", "name": None})))
    messages = [{"role": "user", "content": "hello"}]
    question = {"type": "predicate", "instructions": "It is a greeting."}
    call("decide", messages, [question], model="m", refusal_threshold=0.5)
    sent = DecisionRequest.model_validate(server.bodies[0])
    assert (sent.model, sent.refusal_threshold, sent.method) == ("m", 0.5, None)
    assert server.bodies[0]["input"] == messages


def test_true_and_the_text_true_are_two_choices(call: Call, server: StreamingService) -> None:
    rows = [{"value": True, "probability": 0.75}, {"value": "True", "probability": 0.25}]
    server.answer_with(whole(decided({**CHOICE, "choice": True, "probabilities": rows})))
    (answer,) = call("decide", "text", []).answers
    assert answer.choice is True
    assert answer.probabilities == {True: 0.75, "True": 0.25}


def test_classify(call: Call, server: StreamingService) -> None:
    server.answer_with(whole(decided(CHOICE), x_ironcliw_model="m"))
    found = call("classify", "text", ["a", "b"])
    assert (found.label, found.scores) == ("b", {"a": 0.3, "b": 0.7})
    assert found.served.model == "m"
    sent = DecisionRequest.model_validate(server.bodies[0])
    assert sent.model == "all-MiniLM-L6-v2"
    assert not sent.multi_label


def test_classify_with_descriptions_and_examples(call: Call, server: StreamingService) -> None:
    server.answer_with(whole(decided(CHOICE)))
    labels = {"a": "about animals", "b": ""}
    call("classify", "text", labels, examples={"b": ("x", "y")}, multi_label=True, method="nli")
    sent = DecisionRequest.model_validate(server.bodies[0])
    assert sent.multi_label
    assert server.bodies[0]["questions"][0]["choices"] == [
        {"value": "a", "description": "about animals"},
        {"value": "b", "examples": ["x", "y"]},
    ]


def test_a_cut_text_is_told_of_a_classification(call: Call, server: StreamingService) -> None:
    server.answer_with(whole({**decided(CHOICE), "truncated_tokens": 7}))
    assert call("classify", "text", ["a", "b"]).truncated_tokens == 7


def test_no_label_fits(call: Call, server: StreamingService) -> None:
    server.answer_with(whole(decided({"type": "refusal", "name": None})))
    found = call("classify", "text", ["a", "b"])
    assert (found.label, found.scores) == (None, {})


def test_a_label_given_twice_is_the_servers_to_refuse(call: Call, server: StreamingService) -> None:
    server.answer_with(refusal(400, "invalid_value", "choices[1] repeats 'a'"))
    with pytest.raises(RequestError, match="repeats 'a'"):
        call("classify", "text", ["a", "a"])
    assert len(server.bodies[0]["questions"][0]["choices"]) == 2


def test_an_example_of_no_label(call: Call, server: StreamingService) -> None:
    with pytest.raises(RequestError, match="examples has 'c', which is none of the labels: 'a'"):
        call("classify", "text", ["a", "b"], examples={"c": ["x"]})
    assert server.received == []


def test_a_text_in_place_of_a_list_is_not_read_as_its_characters(
    call: Call, server: StreamingService
) -> None:
    with pytest.raises(RequestError, match="labels has the text 'music' where a list"):
        call("classify", "text", "music")
    with pytest.raises(RequestError, match="examples has the text 'x y' where a list"):
        call("classify", "text", ["a", "b"], examples={"a": "x y"})
    assert server.received == []


def test_errors(call: Call, server: StreamingService) -> None:
    server.answer_with(refusal(404, "model_not_found", "no model 'x'"))
    with pytest.raises(ModelNotFoundError, match="no model 'x'"):
        call("classify", "text", ["a", "b"], model="x")


@pytest.mark.parametrize(
    "body", [{}, decided({"type": "new"}), decided(), {"answers": 1}, decided(CHOICE, CHOICE)]
)
def test_another_programs_answer(call: Call, server: StreamingService, body: Any) -> None:
    server.answer_with(whole(body))
    with pytest.raises(IroncliwError, match="not one of this interface"):
        call("classify", "text", ["a", "b"])
