"""The HTTP interface against a real server on loopback, with a model that needs no weights."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ironcliw.catalog import Catalog
from ironcliw.settings import Settings
from ironcliw.sources import locate
from ironcliw.store import Store
from serve.engines.protocol import PackedTokens
from serve.host import Computed, ModelHost
from serve.keys import ApiKeys
from serve.variants import LocalVariant, ReplicaLostError
from tests.contract.http_service import MODELS, HttpService, running
from tests.waiting import wait_for

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    with running(tmp_path_factory.mktemp("state")) as service:
        yield service


@pytest.fixture
def http(server: HttpService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


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
        with pytest.raises(openai.BadRequestError, match="is for embedding, not for generation"):
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
    ({"model": 7, "input": "a"}, "model must be a string", "model"),
    ({"model": "fake", "input": "a", "dimensions": 0}, "dimensions must be", "dimensions"),
    ({"model": "fake", "input": "a", "dimensions": 9}, "dimensions is 9; fake has 8", "dimensions"),
    ({"model": "fake", "input": "a", "dimensions": "3"}, "dimensions must be", "dimensions"),
    ({"model": "fake", "input": "a", "encoding_format": "x"}, "encoding_format", "encoding_format"),
    ({"model": "fake", "input": "a", "colour": 1}, "unknown field 'colour'; known", "colour"),
    ({"model": "fake", "input": "a", "prompt_name": "q"}, "has these prompts: none", "prompt_name"),
    ({"model": "writer", "input": "a"}, "is for generation, not for embeddings", "model"),
    (["not", "an", "object"], "the body must be an object", None),
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


def raw_request(body: bytes, *, head: bytes = b"POST /v1/embeddings HTTP/1.1") -> bytes:
    fixed = b"\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return head + fixed + b"content-length: %d\r\n\r\n%s" % (len(body), body)


def test_a_client_that_leaves_cancels_its_request(server: HttpService) -> None:
    # more batches than one: those that had not started are dropped with the request
    body = json.dumps({"model": "slow", "input": ["left alone " * 400] * 30}).encode()
    del server.statuses[:]
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(raw_request(body))
    wait_for(lambda: bool(server.gateway.running))
    connection.close()
    wait_for(lambda: server.statuses == [499])
    queue = server.service.embeddings.lanes()["slow"]
    assert queue.stats().waiting_items == 0


class TestNotQuiteHttp:
    def answer(self, server: HttpService, request: bytes) -> tuple[bytes, dict[str, Any]]:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(request)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        return head.split(b"\r\n")[0], json.loads(body)

    def test_a_line_that_is_no_http(self, server: HttpService) -> None:
        line, body = self.answer(server, b"HELLO\r\n\r\n")
        assert line == b"HTTP/1.1 400 Bad Request"
        assert body["error"]["code"] == "bad_http"

    def test_a_body_of_unknown_length_that_grows_too_large(self, server: HttpService) -> None:
        head = (
            b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        chunk = b"%x\r\n%s\r\n" % (8_400_000, b"a" * 8_400_000)
        line, body = self.answer(server, head + chunk)
        assert line.startswith(b"HTTP/1.1 413")
        assert body["error"]["code"] == "request_too_large"

    @pytest.mark.parametrize("name", ["host", "origin"])
    def test_a_header_that_is_no_address(self, http: httpx.Client, name: str) -> None:
        response = http.get("/v1/models", headers={name: "http://["})
        assert response.status_code == 403
        assert error_of(response)["code"] == "foreign_origin"


def test_a_huge_body_of_wrong_items_is_refused_quickly(http: httpx.Client) -> None:
    content = b'{"model":"fake","input":[' + b",".join([b"1.5"] * 400_000) + b"]}"
    started = time.process_time()
    response = http.post("/v1/embeddings", content=content, headers=JSON)
    assert response.status_code == 400
    assert "input must be a string" in error_of(response)["message"]
    # collecting an error for each item took some 6 s of processor time
    assert time.process_time() - started < 1.5


def test_one_text_may_not_be_endless(http: httpx.Client) -> None:
    response = post(http, {"model": "fake", "input": "a" * 1_000_001})
    assert response.status_code == 413
    assert "input[0] has 1000001 characters" in error_of(response)["message"]


def test_damaged_and_absent_model_files_leave_the_server_up(tmp_path: Path) -> None:
    bundled = locate(Catalog()["all-MiniLM-L6-v2"], tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(bundled, damaged, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx"))
    (damaged / "model.safetensors").write_bytes(
        (bundled / "model.safetensors").read_bytes()[:100_000]
    )
    models = {
        "damaged": {"source": f"dir:{damaged}", "task": "embedding"},
        "absent": {"source": f"dir:{tmp_path / 'nowhere'}", "task": "embedding"},
    }
    with (
        running(tmp_path / "state", models=models) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        for model, message in (
            ("damaged", r"model\.safetensors"),
            ("absent", "nowhere does not exist"),
            ("prime-7b-chat-v1", r"set models\.prime-7b-chat-v1\.source"),
        ):
            response = client.post(f"/v1/models/{model}/load", json={})
            assert response.status_code == 500, response.text
            assert re.search(message, error_of(response)["message"])
        response = client.post("/v1/embeddings", json={"model": "damaged", "input": "a"})
        assert response.status_code == 500
        response = client.post("/v1/embeddings", json={"model": "fake", "input": "a"})
        assert response.status_code == 200


class TestReadiness:
    def test_a_pinned_model_unloaded_by_force_stays_so_and_is_reported(
        self, tmp_path: Path
    ) -> None:
        with (
            running(tmp_path) as service,
            httpx.Client(base_url=service.url, timeout=60) as client,
        ):
            client.post("/v1/models/fake/load", json={"pin": True})
            assert "fake" in client.get("/readyz").json()["detail"]["forward_ms"]
            client.post("/v1/models/fake/unload", json={"force": True})
            wait_for(lambda: client.get("/readyz").json()["detail"]["forward_ms"] == {})
            assert client.get("/v1/models/fake").json()["state"] == "absent"
            assert "pinned model fake was unloaded" in client.get("/v1/status").json()["degraded"]


class TestLostReplicas:
    """A variant that fails as Serve's does when a replica dies."""

    class Variant(LocalVariant):
        def __init__(self, host: ModelHost, losses: int) -> None:
            super().__init__(host)
            self.losses = losses

        async def embed(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
            if self.losses:
                self.losses -= 1
                raise ReplicaLostError("a local replica was lost during embed")
            return await super().embed(model_id, batch, deadline)

    @pytest.mark.parametrize(("losses", "status"), [(1, 200), (3, 200), (99, 503)])
    def test_a_batch_is_run_again_but_not_for_ever(
        self, tmp_path: Path, losses: int, status: int
    ) -> None:
        settings = Settings(models=MODELS)
        host = ModelHost(Catalog(settings.models), settings.serve, tmp_path, "test-node")
        variant = self.Variant(host, losses)
        with running(tmp_path, variant) as service:
            body = {"model": "fake", "input": "some text"}
            response = httpx.post(service.url + "/v1/embeddings", json=body, timeout=60)
        assert response.status_code == status
        if status == 503:
            assert response.headers["retry-after"]
            assert error_of(response)["code"] == "replica_lost"


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
            "POST" if "load" in path else "GET", url + path, headers=headers, timeout=60
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
        httpx.Client(base_url=service.url, timeout=60) as client,
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


def test_a_load_may_take_longer_than_a_request(tmp_path: Path) -> None:
    """The default deadline of requests does not cut a load: it may fetch gigabytes first."""
    with running(tmp_path, request_timeout_seconds=0.05) as service:
        load = service.service.load

        async def slow_load(model_id: str, pin: bool, ttl: float | None) -> None:
            await asyncio.sleep(0.3)
            await load(model_id, pin, ttl)

        service.service.load = slow_load  # type: ignore[method-assign]
        response = httpx.post(service.url + "/v1/models/fake/load", timeout=60)
    assert response.status_code == 200
    assert response.json()["state"] == "ready"
