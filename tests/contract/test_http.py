"""The HTTP interface against a real server on loopback, with a model that needs no weights."""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ironcliw.store import Store
from serve.keys import ApiKeys
from tests.contract.http_service import HttpService, running

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    with running(tmp_path_factory.mktemp("state")) as service:
        yield service


@pytest.fixture
def http(server: HttpService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def post(http: httpx.Client, body: Any, **headers: str) -> httpx.Response:
    return http.post("/v1/embeddings", json=body, headers=headers)


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


class TestOpenAIClient:
    @pytest.fixture
    def client(self, server: HttpService) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            yield client

    def test_embeddings_of_one_text_and_of_many(self, client: openai.OpenAI) -> None:
        one = client.embeddings.create(model="fake", input="turn off the lights")
        many = client.embeddings.create(model="fake", input=["hello", "turn off the lights"])
        assert one.usage.prompt_tokens == one.usage.total_tokens == 4
        assert [item.index for item in many.data] == [0, 1]
        assert many.data[1].embedding == one.data[0].embedding
        assert many.data[0].embedding != one.data[0].embedding
        assert len(one.data[0].embedding) == 8
        assert one.model == "fake"

    def test_token_arrays_give_what_their_text_gives(self, client: openai.OpenAI) -> None:
        arrays = client.embeddings.create(model="fake", input=[[5, 6], [7]])
        single = client.embeddings.create(model="fake", input=[5, 6])
        assert len(arrays.data) == 2
        assert single.data[0].embedding == arrays.data[0].embedding
        assert arrays.usage.prompt_tokens == 3

    def test_dimensions_are_cut_and_normalised_again(self, client: openai.OpenAI) -> None:
        whole = client.embeddings.create(model="fake", input="a b").data[0].embedding
        cut = client.embeddings.create(model="fake", input="a b", dimensions=3).data[0].embedding
        assert len(cut) == 3
        assert sum(x * x for x in cut) == pytest.approx(1, abs=1e-5)
        assert cut[0] / cut[1] == pytest.approx(whole[0] / whole[1], rel=1e-4)

    def test_models_are_listed_and_retrieved(self, client: openai.OpenAI) -> None:
        models = {model.id for model in client.models.list()}
        assert {"fake", "all-MiniLM-L6-v2", "prime-7b-chat-v1", "bart-large-mnli"} <= models
        assert client.models.retrieve("fake").object == "model"

    def test_errors_become_the_clients_own_classes(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match=r"no model 'nope'; known models: .*fake"):
            client.embeddings.create(model="nope", input="x")
        with pytest.raises(openai.BadRequestError, match=r"input\[0\] is empty"):
            client.embeddings.create(model="fake", input="")
        with pytest.raises(openai.NotFoundError, match="no model 'nope'"):
            client.models.retrieve("nope")
        with pytest.raises(openai.InternalServerError, match="not served by this release"):
            client.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": "hi"}]
            )

    def test_raw_headers_name_who_answered(self, client: openai.OpenAI) -> None:
        raw = client.embeddings.with_raw_response.create(model="fake", input="never asked before")
        assert raw.headers["x-ironcliw-model"] == "fake"
        assert raw.headers["x-ironcliw-variant"] == "in-process"
        assert raw.headers["x-ironcliw-node"] == "test-node"
        assert raw.headers["x-ironcliw-degraded"] == "none"
        assert raw.headers["x-request-id"]


class TestAnswers:
    def test_base64_and_floats_are_the_same_numbers(self, http: httpx.Client) -> None:
        floats = post(http, {"model": "fake", "input": "a"}).json()["data"][0]["embedding"]
        body = {"model": "fake", "input": "a", "encoding_format": "base64"}
        packed = post(http, body).json()["data"][0]["embedding"]
        assert struct.unpack("<8f", base64.b64decode(packed)) == pytest.approx(floats)

    def test_truncation_is_stated(self, http: httpx.Client) -> None:
        text = "word " * 600
        response = post(http, {"model": "fake", "input": ["short", text]})
        assert response.json()["truncated"] == [{"index": 1, "dropped_tokens": 88}]
        assert response.headers["x-ironcliw-truncated"] == "1"
        assert response.json()["usage"]["prompt_tokens"] == 513

    def test_truncation_is_refused_on_request(self, http: httpx.Client) -> None:
        response = post(http, {"model": "fake", "input": "word " * 600, "truncate": False})
        assert response.status_code == 400
        assert error_of(response)["code"] == "context_length_exceeded"

    def test_a_repeated_text_comes_from_the_content_cache(self, http: httpx.Client) -> None:
        body = {"model": "fake", "input": "asked twice"}
        first, second = post(http, body), post(http, body)
        assert "x-ironcliw-cache" not in first.headers
        assert second.headers["x-ironcliw-cache"] == "hit"
        assert first.json() == second.json()

    def test_a_request_id_is_kept_and_a_strange_one_replaced(self, http: httpx.Client) -> None:
        kept = http.get("/healthz", headers={"x-request-id": "abc-1"})
        replaced = http.get("/healthz", headers={"x-request-id": "a b<script>"})
        assert kept.headers["x-request-id"] == "abc-1"
        assert len(replaced.headers["x-request-id"]) == 32

    def test_health_readiness_docs_and_status(self, http: httpx.Client) -> None:
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").json()["detail"]["forward_ms"]["fake"] >= 0
        assert "swagger" in http.get("/docs").text.lower()
        status = http.get("/v1/status").json()
        assert {"nodes", "variants", "models", "queues", "degraded"} <= set(status)

    def test_load_and_unload_show_in_the_model(self, http: httpx.Client) -> None:
        loaded = http.post("/v1/models/fake/load", json={"pin": True})
        assert loaded.json()["state"] == "ready"
        assert loaded.json()["pinned"] is True
        refused = http.post("/v1/models/fake/unload")
        assert refused.status_code == 409
        unloaded = http.post("/v1/models/fake/unload", json={"force": True})
        assert unloaded.json()["state"] == "absent"

    def test_a_load_streams_its_progress(self, http: httpx.Client) -> None:
        http.post("/v1/models/slow/unload", json={"force": True})
        with http.stream("POST", "/v1/models/slow/load", json={"stream": True}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        assert json.loads(lines[-2])["state"] == "ready"


BAD_BODIES = [
    ({"model": "fake", "input": []}, "input is an empty list", "input"),
    ({"model": "fake", "input": ["a", ""]}, r"input\[1\] is empty", "input"),
    ({"model": "fake", "input": [[]]}, r"input\[0\] is empty", "input"),
    ({"model": "fake", "input": 5}, "input must be a string", "input"),
    ({"model": "fake", "input": None}, "input must be a string", "input"),
    ({"model": "fake", "input": ["a", 5]}, "input must be a string", "input"),
    ({"model": "fake", "input": {"text": "a"}}, "input must be a string", "input"),
    ({"model": "fake", "input": [-1]}, "token ids must be in", "input"),
    ({"model": "fake", "input": [2**40]}, "token ids must be in", "input"),
    ({"model": "fake"}, "'input' is required", "input"),
    ({"input": "a"}, "'model' is required", "model"),
    ({"model": 7, "input": "a"}, "model: ", "model"),
    ({"model": "fake", "input": "a", "dimensions": 0}, "dimensions: ", "dimensions"),
    ({"model": "fake", "input": "a", "dimensions": 9}, "dimensions is 9; fake has 8", "dimensions"),
    ({"model": "fake", "input": "a", "dimensions": "3"}, "dimensions: ", "dimensions"),
    ({"model": "fake", "input": "a", "encoding_format": "x"}, "encoding_format", "encoding_format"),
    ({"model": "fake", "input": "a", "colour": 1}, "unknown field 'colour'; known", "colour"),
    ({"model": "fake", "input": "a", "prompt_name": "q"}, "has these prompts: none", "prompt_name"),
    ({"model": "writer", "input": "a"}, "is for generation, not for embeddings", "model"),
    (["not", "an", "object"], "the body: ", None),
]


class TestBadInput:
    @pytest.mark.parametrize(("body", "message", "param"), BAD_BODIES)
    def test_wrong_fields(
        self, http: httpx.Client, body: Any, message: str, param: str | None
    ) -> None:
        response = post(http, body)
        assert response.status_code == 400, response.text
        error = error_of(response)
        assert re.search(message, error["message"]), error["message"]
        assert error["param"] == param
        assert error["type"] == "invalid_request_error"

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b'{"model": "fake", "input": "a"',
            b"\xff\xfe",
            b'{"model":"fake","input":"\xc3"}',
        ],
    )
    def test_broken_json_and_invalid_utf8(self, http: httpx.Client, content: bytes) -> None:
        response = http.post("/v1/embeddings", content=content, headers=JSON)
        assert response.status_code == 400
        assert "not valid JSON in UTF-8" in error_of(response)["message"]

    def test_a_lone_surrogate(self, http: httpx.Client) -> None:
        response = http.post(
            "/v1/embeddings", content=b'{"model":"fake","input":"\\ud800"}', headers=JSON
        )
        assert response.status_code == 400
        error_of(response)

    def test_ten_megabytes_of_text(self, http: httpx.Client) -> None:
        response = post(http, {"model": "fake", "input": "a" * 10_000_000})
        assert response.status_code == 413
        assert "at most 8388608 are allowed" in error_of(response)["message"]

    def test_ten_megabytes_in_chunks_of_unknown_length(self, server: HttpService) -> None:
        def chunks() -> Iterator[bytes]:
            yield b'{"model":"fake","input":"'
            for _ in range(100):
                yield b"a" * 100_000

        with httpx.Client(base_url=server.url, timeout=20) as client:
            try:
                status = client.post("/v1/embeddings", content=chunks(), headers=JSON).status_code
            except httpx.WriteError:
                status = 413  # the answer came, and the connection went, before all was written
        assert status == 413

    def test_too_many_items(self, http: httpx.Client) -> None:
        response = post(http, {"model": "fake", "input": ["a"] * 2049})
        assert response.status_code == 413
        assert "input has 2049 items; at most 2048" in error_of(response)["message"]

    def test_too_many_tokens(self, http: httpx.Client) -> None:
        response = post(http, {"model": "fake", "input": ["w " * 512] * 600})
        assert response.status_code == 413
        assert "at most 300000 are allowed" in error_of(response)["message"]

    def test_unknown_route_method_and_model(self, http: httpx.Client) -> None:
        missing = http.get("/v1/nothing")
        assert missing.status_code == 404
        assert "/v1/embeddings" in error_of(missing)["message"]
        wrong = http.get("/v1/embeddings")
        assert wrong.status_code == 405
        assert wrong.headers["allow"] == "POST"
        error_of(wrong)
        assert http.post("/v1/models/nope/load").status_code == 404

    def test_a_model_that_cannot_be_loaded_leaves_the_server_up(self, http: httpx.Client) -> None:
        for _ in range(2):
            response = post(http, {"model": "broken", "input": "a"})
            assert response.status_code == 500
            assert error_of(response)["code"] == "model_load_failed"
        assert post(http, {"model": "fake", "input": "a"}).status_code == 200
        assert "cannot be loaded" in http.get("/v1/models/broken").json()["error"]

    @pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "1e9"])
    def test_a_wrong_deadline(self, http: httpx.Client, value: str) -> None:
        headers = {"x-request-timeout-seconds": value}
        response = post(http, {"model": "fake", "input": "a"}, **headers)
        assert response.status_code == 400
        assert error_of(response)["param"] == "x-request-timeout-seconds"

    def test_a_deadline_that_passes(self, http: httpx.Client) -> None:
        http.post("/v1/models/slow/load")
        headers = {"x-request-timeout-seconds": "0.1"}
        response = post(http, {"model": "slow", "input": "a deadline"}, **headers)
        # refused at once when the service knows already how slow the model is
        assert response.status_code in (408, 429)
        error_of(response)


def test_a_client_that_leaves_cancels_its_request(server: HttpService) -> None:
    body = json.dumps({"model": "slow", "input": ["left alone"] * 3}).encode()
    request = (
        b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(request)
    wait_for(lambda: bool(server.gateway.running))
    connection.close()
    wait_for(lambda: not server.gateway.running)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    state = tmp_path_factory.mktemp("keys")
    store = Store(f"sqlite:///{state / 'state.db'}")
    store.migrate()
    keys = ApiKeys(store)
    found = {
        "infer": keys.create("app", ["infer"])[1],
        "admin": keys.create("owner", ["admin"])[1],
        "single": keys.create("single", ["infer"], max_concurrency=1)[1],
    }
    with running(state) as open_server, running(state, auth="required") as closed_server:
        yield {**found, "open": open_server.url, "closed": closed_server.url}
    store.close()


class TestKeys:
    def ask(self, url: str, key: str | None, path: str = "/v1/models") -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.request(
            "POST" if "load" in path else "GET", url + path, headers=headers, timeout=20
        )

    def test_a_missing_key(self, secrets: dict[str, Any]) -> None:
        assert self.ask(secrets["open"], None).status_code == 200
        refused = self.ask(secrets["closed"], None)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "needs an API key" in error_of(refused)["message"]

    def test_a_wrong_key_is_refused_even_where_none_is_needed(
        self, secrets: dict[str, Any]
    ) -> None:
        for url in (secrets["open"], secrets["closed"]):
            refused = self.ask(url, "icw-00000000-" + "x" * 43)
            assert refused.status_code == 401
            assert "x" * 20 not in refused.text

    def test_scopes(self, secrets: dict[str, Any]) -> None:
        url = secrets["closed"]
        assert self.ask(url, secrets["infer"]).status_code == 200
        refused = self.ask(url, secrets["infer"], "/v1/models/fake/load")
        assert refused.status_code == 403
        assert "needs admin" in error_of(refused)["message"]
        assert self.ask(url, secrets["admin"], "/v1/models/fake/load").status_code == 200

    def test_health_needs_no_key(self, secrets: dict[str, Any]) -> None:
        assert self.ask(secrets["closed"], None, "/healthz").status_code == 200

    async def test_requests_at_once_are_limited(self, secrets: dict[str, Any]) -> None:
        import asyncio

        headers = {"authorization": f"Bearer {secrets['single']}"}
        async with httpx.AsyncClient(base_url=secrets["closed"], headers=headers) as client:
            answers = await asyncio.gather(
                *(
                    client.post("/v1/embeddings", json={"model": "slow", "input": f"text {n}"})
                    for n in range(4)
                )
            )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200
        assert statuses[-1] == 429
        limited = next(answer for answer in answers if answer.status_code == 429)
        assert int(limited.headers["retry-after"]) >= 1
        assert error_of(limited)["code"] == "key_concurrency"


class TestWithoutKeys:
    @pytest.mark.parametrize(
        "headers",
        [{"origin": "https://example.org"}, {"host": "rebound.example:8000"}, {"origin": "null"}],
    )
    def test_web_pages_are_refused(self, http: httpx.Client, headers: dict[str, str]) -> None:
        response = http.get("/v1/models", headers=headers)
        assert response.status_code == 403
        assert error_of(response)["code"] == "foreign_origin"

    def test_a_placeholder_key_is_accepted(self, http: httpx.Client) -> None:
        assert http.get("/v1/models", headers={"authorization": "Bearer none"}).status_code == 200


def test_overload_is_429_with_retry_after(tmp_path: Path) -> None:
    with (
        running(tmp_path, max_queue_tokens=10, batch_tokens=5) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        client.post("/v1/models/slow/load")
        import concurrent.futures

        def ask(number: int) -> httpx.Response:
            body = {"model": "slow", "input": f"a b c d {number}"}
            return client.post("/v1/embeddings", json=body)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert int(refused.headers["retry-after-ms"]) >= 1
    assert error_of(refused)["type"] == "rate_limit_error"
