"""Our own clients and commands against a real server: what each sends, the other understands."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ironcliw import AsyncClient, Client, PrimeModel
from ironcliw.cli import main
from ironcliw.client import ChoiceAnswer, PredicateAnswer, ScoreAnswer, choice_question
from ironcliw.errors import (
    ContextLengthError,
    DeadlineExceededError,
    ModelNotFoundError,
    RequestError,
)
from tests.contract.http_service import HttpService, running

HELLO = "Hello w\u00f6rld, \U0001f600!\u2028"
TALKERS = {
    "talker": {"source": f"fake:300?context=256&seconds=0.005&text={HELLO}", "task": "generation"},
    "endless": {
        "source": "fake:300?endless=1&context=4096&seconds=0.01&slots=1",
        "task": "generation",
    },
}
LABELS = ["play music", "set an alarm", "weather report"]
RAIN = "will it rain tomorrow in Paris"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    with running(tmp_path_factory.mktemp("state"), models=TALKERS) as service:
        yield service


@pytest.fixture
def client(
    server: HttpService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Client]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", server.url)
    with Client() as client:
        yield client


def test_decide(client: Client) -> None:
    levels = [{"label": "calm"}, {"label": "urgent"}]
    answer = client.decide(
        RAIN,
        [
            choice_question(LABELS, {"weather report": "rain, sun and wind"}),
            {"type": "predicate", "name": "p", "instructions": "It is about the weather."},
            {"type": "score", "instructions": "How urgent is it?", "levels": levels},
        ],
        refusal_threshold=0.0,
    )
    choice, predicate, score = answer.answers
    assert isinstance(choice, ChoiceAnswer)
    assert (choice.choice, list(choice.probabilities)) == ("weather report", LABELS)
    assert isinstance(predicate, PredicateAnswer)
    assert predicate.name == "p"
    assert isinstance(score, ScoreAnswer)
    assert 1.0 <= score.score <= 2.0
    assert answer.usage.input_tokens > 0
    assert (answer.served.model, answer.served.node) == ("all-MiniLM-L6-v2", "test-node")


def test_classify(client: Client) -> None:
    found = client.classify(RAIN, LABELS)
    assert found.label == "weather report"
    assert sum(found.scores.values()) == pytest.approx(1.0)
    examples = {"set an alarm": ["get me up at six"], "play music": ["put on some jazz"]}
    assert client.classify("wake me at seven", LABELS, examples=examples).label == "set an alarm"
    refused = client.classify("x", LABELS, refusal_threshold=1.0)
    assert (refused.label, refused.scores) == (None, {})


def test_decisions_that_are_refused(client: Client) -> None:
    with pytest.raises(RequestError, match="at least 2"):
        client.classify("x", ["a"])
    with pytest.raises(RequestError, match="multi_label is for the method nli"):
        client.classify("x", LABELS, multi_label=True)
    with pytest.raises(ModelNotFoundError, match="no model 'nope'"):
        client.classify("x", LABELS, model="nope")


def test_chat_and_complete(client: Client) -> None:
    answer = client.chat("hi", model="talker", temperature=0, top_k=5, repetition_penalty=1.0)
    assert (answer.text, answer.finish_reason, answer.model) == (HELLO, "stop", "talker")
    assert answer.served.model == "talker"
    assert answer.usage.output_tokens >= len(HELLO.encode())
    short = client.chat("hi", model="talker", max_tokens=4, n=2)
    assert [(one.text, one.finish_reason) for one in short.choices] == [("Hell", "length")] * 2
    assert client.complete("> ", model="talker", stop=["w", "!"]).text == "Hello "


def test_streams(client: Client) -> None:
    with client.stream_chat("hi", model="talker") as stream:
        pieces = list(stream)
    assert "".join(pieces) == HELLO
    assert len(pieces) > 5
    assert (stream.finish_reason, stream.served and stream.served.node) == ("stop", "test-node")
    assert stream.usage
    assert stream.usage.output_tokens >= len(HELLO.encode())
    assert "".join(client.stream("> ", model="talker", max_tokens=3)) == "Hel"


async def test_an_asynchronous_stream(server: HttpService) -> None:
    async with AsyncClient(server.url) as client:
        pieces = [piece async for piece in client.stream_chat("hi", model="talker")]
        whole = await client.chat("hi", model="talker")
    assert "".join(pieces) == whole.text == HELLO


def test_generation_that_is_refused(client: Client) -> None:
    for ask in (client.chat, client.stream_chat):
        with pytest.raises(ContextLengthError, match="holds 256"):
            list(ask("x" * 300, model="talker"))  # type: ignore[arg-type]
        with pytest.raises(RequestError, match="temperature"):
            list(ask("hi", model="talker", temperature=9.0))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="for embedding, not for generation"):
        client.chat("hi", model="fake")


def test_leaving_a_stream_frees_the_only_slot(client: Client, server: HttpService) -> None:
    for piece in client.stream_chat("hi", model="endless", max_tokens=3000):
        assert piece
        break
    started = time.monotonic()
    assert client.chat("hi", model="endless", max_tokens=1)
    assert time.monotonic() - started < 10, "the first answer takes over 30 s"


def test_a_deadline_ends_an_answer(server: HttpService) -> None:
    with Client(server.url, timeout=0.5, max_retries=0) as client:
        with pytest.raises(DeadlineExceededError, match=r"deadline|no answer within 0\.5 s"):
            client.chat("hi", model="endless", max_tokens=3000)
        assert client.chat("hi", model="endless", max_tokens=1), "its slot is free again"


def test_prime_model_behind_the_server(client: Client, server: HttpService) -> None:
    with PrimeModel.from_pretrained("talker", endpoint=server.url) as model:
        assert model.generate("hi") == HELLO
        assert model.generate("> ", raw=True, max_tokens=5) == "Hello"
        assert "".join(model.stream("hi")) == HELLO
    with pytest.raises(ModelNotFoundError, match="no model 'nope'"):
        PrimeModel.from_pretrained("nope", endpoint=server.url)


def test_commands(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [word for label in LABELS for word in ("--label", label)]
    for words in (["decide", RAIN, *labels, "--json"], ["chat", "hi", "--model", "talker"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0
    decided, said = capsys.readouterr().out.split("\n", 1)
    assert json.loads(decided)["label"] == "weather report"
    assert said == HELLO + "\n"
