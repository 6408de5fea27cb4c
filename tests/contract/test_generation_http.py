"""Chat and text completions against a real server, with the official client."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ironcliw.store import Store
from serve.gateway import Gateway
from serve.keys import ApiKeys
from serve.routes import create_app
from tests.contract.http_service import HttpService, running
from tests.waiting import wait_for

LONG = "abcdefgh" * 3000
HELLO = "Hello w\u00f6rld, \U0001f600!"
TALKERS = {
    "talker": {"source": f"fake:300?context=256&seconds=0.005&text={HELLO}", "task": "generation"},
    # each token takes five milliseconds or more: far longer in all than a test waits for its end
    "slow-talker": {
        "source": f"fake:300?context=32768&seconds=0.005&text={LONG}",
        "task": "generation",
    },
    "dice": {"source": "fake:256?context=128", "task": "generation"},
}
USER: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    with running(tmp_path_factory.mktemp("state"), models=TALKERS) as service:
        yield service


@pytest.fixture
def client(server: HttpService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(server: HttpService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def running_jobs(server: HttpService, model: str) -> int:
    rows = {row["id"]: row for row in server.host.stats()["models"]}
    return int(rows[model]["generation"]["running"])


class TestChat:
    def test_a_whole_answer(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model="talker", messages=USER)
        assert answer.object == "chat.completion"
        assert answer.choices[0].message.content == HELLO
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == len(HELLO.encode())
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + len(HELLO.encode())
        assert answer.system_fingerprint == "talker-float32"

    def test_a_stream_has_whole_characters_only(self, client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(
            model="talker", messages=USER, stream=True, stream_options={"include_usage": True}
        )
        *chunks, last = list(stream)
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(pieces) == HELLO
        assert "\ufffd" not in "".join(pieces)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.completion_tokens == len(HELLO.encode())

    def test_the_client_s_own_collector_of_streams(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(model="talker", messages=USER) as stream:
            for _ in stream:
                pass
            assert stream.get_final_completion().choices[0].message.content == HELLO

    def test_a_stream_s_headers(self, http: httpx.Client) -> None:
        body = {"model": "talker", "messages": USER, "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-cache"
            assert response.headers["x-accel-buffering"] == "no"
            assert response.headers["x-ironcliw-model"] == "talker"
            assert response.headers["x-ironcliw-node"] == "test-node"
            assert response.headers["x-request-id"]
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"

    def test_stop_strings_n_logprobs_and_seed(self, client: openai.OpenAI) -> None:
        stopped = client.chat.completions.create(
            model="talker", messages=USER, stop=["w\u00f6r", "zz"], n=2, logprobs=True
        )
        assert [choice.message.content for choice in stopped.choices] == ["Hello ", "Hello "]
        assert stopped.choices[1].logprobs is not None
        assert len(stopped.choices[1].logprobs.content or []) == 6
        drawn = [
            client.completions.create(model="dice", prompt="x", seed=5, n=2, max_tokens=8)
            for _ in range(2)
        ]
        assert drawn[0].choices[0].text == drawn[1].choices[0].text
        assert drawn[0].choices[0].text != drawn[0].choices[1].text

    def test_a_stop_string_frees_the_slot(self, client: openai.OpenAI, server: HttpService) -> None:
        answer = client.chat.completions.create(model="slow-talker", messages=USER, stop="habc")
        assert answer.choices[0].message.content == "abcdefg"
        wait_for(lambda: running_jobs(server, "slow-talker") == 0)

    def test_extensions_of_ours(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(
            model="talker",
            messages=USER,
            max_completion_tokens=30,
            extra_body={"top_k": 3, "repetition_penalty": 1.0, "ignore_eos": True},
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 30


class TestCompletions:
    def test_several_prompts_with_echo(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(
            model="talker", prompt=["> ", "# "], max_tokens=5, echo=True
        )
        assert [choice.text for choice in answer.choices] == ["> Hello", "# Hello"]
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 10)

    def test_a_stream(self, client: openai.OpenAI) -> None:
        stream = client.completions.create(
            model="talker", prompt="> ", max_tokens=100, stream=True, echo=True
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].text for chunk in chunks) == "> " + HELLO
        assert chunks[-1].choices[0].finish_reason == "stop"

    def test_log_probabilities(self, client: openai.OpenAI) -> None:
        answer = client.completions.create(model="talker", prompt="> ", logprobs=2, max_tokens=3)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens == ["H", "e", "l"]
        assert logprobs.text_offset == [0, 1, 2]
        assert all(len(top) == 2 for top in logprobs.top_logprobs or [])


LONG: Any = [{"role": "user", "content": "x" * 300}]
IMAGE: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
BAD_CHATS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"messages": LONG}, 400, r"the prompt has 3\d\d tokens; talker holds 256", "messages"),
    ({"temperature": float("nan")}, 400, "finite number", "temperature"),
    ({"temperature": -1}, 400, "greater than or equal to 0", "temperature"),
    ({"max_tokens": -1}, 400, "greater than or equal to 1", "max_tokens"),
    ({"max_tokens": 10**12}, 400, "max_tokens is 1000000000000; talker holds 256", "max_tokens"),
    ({"max_tokens": 10**30}, 400, "max_tokens", "max_tokens"),
    ({"messages": []}, 400, "at least 1 item", "messages"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, 400, "'wizard'", "messages[0].role"),
    ({"messages": IMAGE}, 400, "this service reads text only", "messages[0].content"),
    (
        {"max_tokens": 1, "max_completion_tokens": 2},
        400,
        "give one of them",
        "max_tokens",
    ),
    ({"tools": [{}]}, 400, "not served yet", "tools"),
    ({"stop": ["a", 5]}, 400, "must be a string; given: 5", "stop[1]"),
    (
        {"messages": [{"role": "user", "content": 5}]},
        400,
        "must be a string or a list; given: 5",
        "messages[0].content",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": 5}]}]},
        400,
        "must be a string; given: 5",
        "messages[0].content[0].type",
    ),
    ({"stop": [""]}, 400, "stop has a text of 0 characters", "stop"),
    ({"colour": 1}, 400, "unknown field 'colour'", "colour"),
    ({"model": "nope"}, 404, "no model 'nope'", "model"),
    ({"model": "fake"}, 400, "is for embedding, not for generation", "model"),
]


class TestBadInput:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(("fields", "status", "message", "param"), BAD_CHATS)
    def test_chats(
        self,
        http: httpx.Client,
        fields: dict[str, Any],
        status: int,
        message: str,
        param: str,
        stream: bool,
    ) -> None:
        body = {"model": "talker", "messages": USER, "stream": stream, **fields}
        response = http.post(
            "/v1/chat/completions",
            content=json.dumps(body),
            headers={"content-type": "application/json"},
        )
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        error = response.json()["error"]
        assert re.search(message, error["message"]), error["message"]
        assert error["param"] == param

    def test_the_client_raises_its_own_classes(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="at least 1 item"):
            client.chat.completions.create(model="talker", messages=[])
        with pytest.raises(openai.BadRequestError, match="the prompt has 300 tokens"):
            client.completions.create(model="talker", prompt="x" * 300, stream=True)

    @pytest.mark.parametrize("prompt", [5, None, ["a", 5], [[1, "a"]], {"text": "a"}])
    def test_prompts_of_a_wrong_type(self, http: httpx.Client, prompt: Any) -> None:
        response = http.post("/v1/completions", json={"model": "talker", "prompt": prompt})
        error = response.json()["error"]
        assert response.status_code == 400
        assert "prompt must be a string, a list of strings, a list of token ids" in error["message"]
        assert error["param"] == "prompt"

    def test_invalid_utf8_in_a_body(self, http: httpx.Client) -> None:
        content = b'{"model":"talker","messages":[{"role":"user","content":"\xc3"}]}'
        response = http.post("/v1/chat/completions", content=content)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "bad_json"


class TestStreamsThatEndEarly:
    def test_a_client_that_leaves_frees_the_slot(
        self, client: openai.OpenAI, server: HttpService
    ) -> None:
        del server.statuses[:]
        for n in (1, 3):
            stream = client.chat.completions.create(
                model="slow-talker", messages=USER, stream=True, n=n
            )
            next(iter(stream))
            wait_for(lambda n=n: running_jobs(server, "slow-talker") == n)  # type: ignore[misc]
            stream.close()
            wait_for(lambda: running_jobs(server, "slow-talker") == 0)
        wait_for(lambda: server.statuses == [499, 499])

    def test_a_client_that_leaves_a_whole_answer_frees_the_slot(
        self, client: openai.OpenAI, server: HttpService
    ) -> None:
        client.chat.completions.create(model="slow-talker", messages=USER, max_tokens=1)
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).chat.completions.create(
                model="slow-talker", messages=USER
            )
        wait_for(lambda: running_jobs(server, "slow-talker") == 0)

    def test_a_deadline_becomes_an_error_event(self, client: openai.OpenAI) -> None:
        client.chat.completions.create(model="slow-talker", messages=USER, max_tokens=1)
        stream = client.chat.completions.create(
            model="slow-talker",
            messages=USER,
            stream=True,
            extra_headers={"x-request-timeout-seconds": "1.5"},
        )
        text = ""
        with pytest.raises(openai.APIError, match="not whole by the request's deadline"):
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        assert LONG.startswith(text)
        assert text

    def test_a_deadline_before_the_first_token_has_a_status(self, http: httpx.Client) -> None:
        body = {"model": "slow-talker", "messages": USER}
        headers = {"x-request-timeout-seconds": "0.5"}
        response = http.post("/v1/chat/completions", json=body, headers=headers)
        assert response.status_code == 408
        assert response.json()["error"]["code"] == "deadline_exceeded"

    def test_a_key_s_limit_holds_for_the_whole_stream(self, tmp_path: Path) -> None:
        store = Store(f"sqlite:///{tmp_path / 'state.db'}")
        store.migrate()
        secret = ApiKeys(store).create("single", ["infer"], max_concurrency=1)[1]
        with (
            running(tmp_path, models=TALKERS) as server,
            openai.OpenAI(base_url=server.url + "/v1", api_key=secret, max_retries=0) as client,
        ):
            stream = client.chat.completions.create(model="slow-talker", messages=USER, stream=True)
            next(iter(stream))
            with pytest.raises(openai.RateLimitError, match="1 requests in flight"):
                client.chat.completions.create(model="talker", messages=USER)
            stream.close()
            wait_for(lambda: not server.gateway.running)
            client.chat.completions.create(model="talker", messages=USER)
        store.close()


def test_many_streams_at_once_are_each_whole(client: openai.OpenAI) -> None:
    texts: list[str] = []

    def read() -> None:
        stream = client.chat.completions.create(model="talker", messages=USER, stream=True)
        texts.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))

    threads = [threading.Thread(target=read) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == [HELLO] * 24


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", {"prompt": "> "}),
        ("/v1/chat/completions", {"messages": USER}),
        ("/v1/completions", {"prompt": ""}),
        ("/v1/chat/completions", {"messages": USER, "stop": ""}),
    ],
)
def test_the_documented_routes_answer_as_the_direct_ones(
    server: HttpService, http: httpx.Client, path: str, asked: dict[str, Any], stream: bool
) -> None:
    body = {"model": "talker", "seed": 1, "stream": stream, **asked}

    async def through_the_application() -> httpx.Response:
        gateway = Gateway(create_app(server.service), server.settings.serve)
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url=server.url) as client:
            return await client.post(path, json=body)

    documented = asyncio.run_coroutine_threadsafe(through_the_application(), server.loop)
    ours, theirs = http.post(path, json=body), documented.result(60)
    assert (ours.status_code, ours.headers["content-type"]) == (
        theirs.status_code,
        theirs.headers["content-type"],
    )
    assert _lasting(ours.text) == _lasting(theirs.text)


def _lasting(text: str) -> str:
    """Without what differs from answer to answer, and how the text was cut into events."""
    text = re.sub(r'"(id|created|request_id)":("[^"]*"|\d+)', "", text)
    content = "".join(re.findall(r'"(?:content|text)":"([^"]*)"', text))
    return content + re.sub(r"data: .*\n\n", "", text)
