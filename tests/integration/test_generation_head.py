"""Decisions and generation on a real head, through the official client and the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest

from cluster.head.processes import tagged_processes
from cluster.head.record import HeadRecord
from tests.integration.conftest import DICTATION, Head
from tests.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SMOLLM = "SmolLM2-135M-Instruct"
MINILM = "all-MiniLM-L6-v2"


@pytest.fixture
def client(head: Head) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=head.url + "/v1", api_key="none", timeout=240, max_retries=0
    ) as client:
        yield client


def engine_process(head: Head) -> psutil.Process:
    record = HeadRecord.read(head.state / "head.json")
    assert record is not None
    name = "ServeReplica:ironcliw:engine-local"
    return next(p for p in tagged_processes(record.session) if name in " ".join(p.cmdline()))


def generation_stats(head: Head, model: str) -> dict[str, Any]:
    rows = httpx.get(head.url + "/v1/status", timeout=30).json()["models"]
    return next((row.get("generation", {}) for row in rows if row["id"] == model), {})


def test_the_bundled_model_chats_and_streams(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    options: Any = {"model": SMOLLM, "messages": question, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**options)
    text = whole.choices[0].message.content
    assert text is not None
    assert "Paris" in text
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 3
    streamed = client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    pieces, usage = [], None
    for chunk in streamed:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    assert "".join(pieces) == text
    assert len([piece for piece in pieces if piece]) > 1
    assert usage == whole.usage


def test_the_bundled_model_completes(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=SMOLLM,
        prompt="The days of the week are Monday, Tuesday,",
        max_tokens=4,
        temperature=0,
    )
    assert "Wednesday" in answer.choices[0].text


def test_the_bundled_models_decide(client: openai.OpenAI) -> None:
    intents = ("weather", "play music", "set an alarm")
    question: Any = {
        "type": "choice",
        "name": "intent",
        "instructions": "What does the user want?",
        "choices": [{"value": intent} for intent in intents],
    }
    decision = client.decisions.create(
        model=MINILM, input="will it rain tomorrow", questions=[question]
    )
    [answer] = decision.answers
    assert answer.type == "choice"
    assert answer.choice == "weather"
    assert sum(one.probability for one in answer.probabilities) == pytest.approx(1)
    by_lm = client.decisions.create(
        model=SMOLLM, input="will it rain tomorrow", questions=[question]
    )
    assert by_lm.answers[0].type in {"choice", "refusal"}


def test_the_command_line_decides_and_chats(head: Head) -> None:
    decided = head.run(
        *("decide", "wake me at seven", "--label", "weather", "--label", "set an alarm", "--json")
    )
    assert decided.returncode == 0, decided.stderr
    assert "set an alarm" in decided.stdout
    json.loads(decided.stdout)
    chat = head.run("chat", "go on", "--model", "dictation")
    assert chat.returncode == 0, chat.stderr
    assert DICTATION in chat.stdout


def test_a_client_that_leaves_frees_the_slot(head: Head, client: openai.OpenAI) -> None:
    # all of it takes 150 seconds
    stream = client.completions.create(model="endless", prompt="?", stream=True, max_tokens=3000)
    next(iter(stream))
    assert generation_stats(head, "endless")["running"] == 1
    stream.close()
    wait_for(lambda: generation_stats(head, "endless")["running"] == 0, 30)


def test_an_engine_killed_during_a_stream_is_not_noticed(head: Head, client: openai.OpenAI) -> None:
    """What was sent is read again by the next replica, which goes on where the first ended."""
    text, first = "", threading.Event()

    def read() -> None:
        nonlocal text
        stream = client.completions.create(
            model="dictation", prompt="?", stream=True, max_tokens=400
        )
        for chunk in stream:
            text += chunk.choices[0].text
            first.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(60)
    engine_process(head).kill()
    reader.join(120)
    assert not reader.is_alive()
    assert text == DICTATION
    wait_for(lambda: httpx.get(head.url + "/readyz", timeout=60).status_code == 200, 60)
