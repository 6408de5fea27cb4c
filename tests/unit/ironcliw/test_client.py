"""Both clients against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ironcliw import AsyncClient, Client
from ironcliw._calls import LoadEvents, models_call
from ironcliw._transport import error_from_body
from ironcliw.client import LoadProgress
from ironcliw.errors import (
    AuthenticationError,
    ConflictError,
    DeadlineExceededError,
    IroncliwError,
    MemoryBudgetError,
    ModelLoadError,
    ModelNotFoundError,
    NotRunningError,
    OverloadedError,
    RequestError,
    SettingsError,
    UnavailableError,
)

Run = Callable[..., Any]


def run_sync(options: dict[str, Any], method: str, *args: Any, **kwargs: Any) -> Any:
    with Client(**options) as client:
        return getattr(client, method)(*args, **kwargs)


def run_async(options: dict[str, Any], method: str, *args: Any, **kwargs: Any) -> Any:
    async def call() -> Any:
        async with AsyncClient(**options) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(call())


@pytest.fixture(params=[run_sync, run_async], ids=["sync", "async"])
def run(request: pytest.FixtureRequest, service: Any) -> Run:
    """Calls a method of one client, then of the other."""

    def call(method: str, *args: Any, **kwargs: Any) -> Any:
        options = {"base_url": service.url, **kwargs.pop("options", {})}
        return request.param(options, method, *args, **kwargs)

    return call


def test_embed_keeps_the_order_and_tells_who_served(run: Run, service: Any) -> None:
    answer = run("embed", ["a", "bbb", "cc"], dimensions=2)
    assert answer.vectors == [[1.0, 1.0], [3.0, 3.0], [2.0, 2.0]]
    assert (answer.usage.prompt_tokens, answer.truncated) == (7, ())
    assert (answer.served.node, answer.served.degraded) == ("here", None)
    assert answer.served.request_id == "req-1"
    sent = service.received[0].body
    assert sent["encoding_format"] == "base64"
    assert "prompt_name" not in sent, "what was not given is left to the server"


def test_embed_takes_one_text(run: Run, service: Any) -> None:
    assert run("embed", "abcd").vectors == [[4.0, 4.0, 4.0]]
    assert service.received[0].body["input"] == "abcd"


def test_embed_takes_any_sequence(run: Run) -> None:
    assert len(run("embed", ("a", "b")).vectors) == 2


def test_embed_tells_what_was_cut(run: Run) -> None:
    (cut,) = run("embed", "x" * 2000).truncated
    assert (cut.index, cut.dropped_tokens) == (0, 5)


def test_a_degraded_answer_says_why(run: Run, service: Any, reply: Any) -> None:
    usual = service.answer(_embedding_request())
    usual.headers["x-ironcliw-degraded"] = "spot is waking"
    service.script("/v1/embeddings", usual)
    assert run("embed", "a").served.degraded == "spot is waking"


def _embedding_request() -> Any:
    class Request:
        path = "/v1/embeddings"
        body = {"model": "m", "input": "a", "encoding_format": "base64"}  # noqa: RUF012

    return Request()


def test_models(run: Run) -> None:
    (model,) = run("models")
    assert (model.id, model.state) == ("tiny", "absent")


def test_load_reports_each_step_and_unload_undoes_it(run: Run, service: Any) -> None:
    steps: list[LoadProgress] = []
    model = run("load_model", "tiny", pin=True, ttl_seconds=3.0, progress=steps.append)
    assert model.state == "ready"
    assert steps == [LoadProgress("tiny", "loading", None), LoadProgress("tiny", "ready", 1.0)]
    assert service.received[0].body == {"pin": True, "ttl_seconds": 3.0, "stream": True}
    assert run("unload_model", "tiny", force=True).state == "absent"
    assert service.received[-2].body == {"force": True}


def test_an_error_in_the_stream_of_a_load_is_raised(run: Run, service: Any, reply: Any) -> None:
    event = '{"error": {"message": "model.safetensors is cut", "code": "model_load_failed"}}'
    service.script("/v1/models/tiny/load", reply(body=[event]))
    with pytest.raises(ModelLoadError, match="is cut"):
        run("load_model", "tiny")


def test_a_load_whose_stream_ends_early_is_no_success(run: Run, service: Any, reply: Any) -> None:
    early = reply(body=['{"model": "tiny", "state": "loading", "fraction": 0.5}'])
    service.script("/v1/models/tiny/load", early)
    with pytest.raises(UnavailableError, match="ended before the model was loaded"):
        run("load_model", "tiny", options={"max_retries": 0})


def test_a_stream_that_is_not_ours_is_refused() -> None:
    with pytest.raises(IroncliwError, match="not one of this interface"):
        LoadEvents(None).feed("data: nonsense")


def test_model_ids_are_quoted(run: Run, service: Any) -> None:
    run("model", "a/b c")
    assert service.received[0].path == "/v1/models/a%2Fb%20c"


def test_an_empty_model_id_is_refused_before_it_is_sent(run: Run, service: Any) -> None:
    with pytest.raises(RequestError, match="model id is empty"):
        run("model", "")
    assert service.received == []


def test_health_ready_status_and_request(run: Run, service: Any) -> None:
    assert run("health").status == "ok"
    assert run("ready").status == "ok"
    assert run("status") == {"nodes": [], "degraded": []}
    assert run("request", "get", "/v1/status") == {"nodes": [], "degraded": []}
    assert [one.method for one in service.received] == ["GET"] * 4


def test_not_ready_is_a_value_with_its_reason(run: Run, service: Any, reply: Any) -> None:
    service.script("/readyz", reply.error(503, "unavailable", "tiny is loading"))
    health = run("ready")
    assert (health.status, health.detail) == ("unhealthy", {"reason": "tiny is loading"})
    assert len(service.received) == 1, "readiness is asked once, never retried"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "unknown_field", RequestError),
        (401, "invalid_api_key", AuthenticationError),
        (404, "model_not_found", ModelNotFoundError),
        (409, "conflict", ConflictError),
        (422, None, RequestError),
        (429, "overloaded", OverloadedError),
        (500, "model_load_failed", ModelLoadError),
        (500, "new_code_of_a_later_release", IroncliwError),
        (502, None, UnavailableError),
        (503, "memory_budget", MemoryBudgetError),
    ],
)
def test_errors_come_back_as_their_class(
    run: Run, service: Any, reply: Any, status: int, code: str, expected: type[IroncliwError]
) -> None:
    service.script("/v1/embeddings", reply.error(status, code, "said so", retry_after_ms="1500"))
    with pytest.raises(IroncliwError, match="said so") as caught:
        run("embed", "a", options={"max_retries": 0})
    assert type(caught.value) is expected
    assert caught.value.param == "model"
    if isinstance(caught.value, OverloadedError | UnavailableError):
        assert caught.value.retry_after == 1.5


def test_a_proxy_that_answers_in_its_own_words(run: Run, service: Any, reply: Any) -> None:
    page = reply(status=502, body=b"<html>bad gateway</html>", headers={"x-request-id": "r9"})
    service.script("/v1/models", page)
    with pytest.raises(UnavailableError, match="answered 502: <html>bad gateway") as caught:
        run("models", options={"max_retries": 0})
    assert caught.value.__notes__ == ["request id: r9"]


def test_another_program_at_the_address(run: Run, service: Any, reply: Any) -> None:
    service.script("/v1/models", reply(body=b"hello"))
    with pytest.raises(IroncliwError, match=r"is client\.base_url an Ironcliw server"):
        run("models")


def test_full_queue_is_retried_after_the_servers_own_wait(
    run: Run, service: Any, reply: Any
) -> None:
    busy = reply.error(429, "overloaded", retry_after_ms="120", retry_after="60")
    service.script("/v1/embeddings", busy, busy)
    started = time.monotonic()
    assert run("embed", "a").vectors
    assert 0.24 <= time.monotonic() - started < 60
    assert len(service.received) == 3


def test_retries_end(run: Run, service: Any, reply: Any) -> None:
    busy = reply.error(503, "unavailable", "still busy", retry_after_ms="1")
    service.script("/v1/models", *[busy] * 3)
    with pytest.raises(UnavailableError, match="still busy"):
        run("models")
    assert len(service.received) == 3


def test_a_wait_beyond_the_deadline_is_not_begun(run: Run, service: Any, reply: Any) -> None:
    service.script("/v1/models", reply.error(503, "unavailable", "come later", retry_after="300"))
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="come later"):
        run("models", options={"timeout": 60.0})
    assert time.monotonic() - started < 60


def test_a_dropped_connection_is_retried_where_that_is_safe(
    run: Run, service: Any, reply: Any
) -> None:
    service.script("/v1/embeddings", reply(drop=True))
    assert run("embed", "a").vectors
    service.script("/v1/workflows", reply(drop=True))
    with pytest.raises(UnavailableError, match="connection broke before the answer"):
        run("request", "POST", "/v1/workflows", {"a": 1})
    assert [one.path for one in service.received].count("/v1/workflows") == 1


def test_a_bad_request_is_not_retried(run: Run, service: Any, reply: Any) -> None:
    service.script("/v1/embeddings", reply.error(400, "invalid_value"))
    with pytest.raises(RequestError, match="no"):
        run("embed", "a")
    assert len(service.received) == 1


def test_nobody_listens(run: Run) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(NotRunningError, match=f"{url}.*`ironcliw up`"):
            run("models", options={"base_url": url, "max_retries": 0})


def test_a_server_that_comes_up_late_is_waited_for(run: Run, service: Any) -> None:
    """A refused connection is tried again, since nothing was sent."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        relay = threading.Timer(0.05, _answer_once, [reserved])
        relay.start()
        options = {"base_url": f"http://127.0.0.1:{port}", "max_retries": 50}
        health = run("request", "GET", "/x", options=options)
        relay.join()
    assert health == {"late": True}


def _answer_once(listener: socket.socket) -> None:
    listener.listen()
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        body = b'{"late": true}'
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)


def test_a_silent_server_runs_into_the_deadline(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeadlineExceededError, match=r"no answer within 0\.2 s"):
            run("models", options={"base_url": url, "timeout": 0.2})


def test_the_deadline_and_the_key_travel_with_the_request(run: Run, service: Any) -> None:
    run("models", options={"api_key": "icw-1", "timeout": 7})
    headers = service.received[0].headers
    assert headers["x-request-timeout-seconds"] == "7"
    assert headers["authorization"] == "Bearer icw-1"


@pytest.mark.parametrize(
    ("timeout", "sent"),
    [(7200, "3600"), (float("inf"), "3600"), (1234567.0, "3600"), (0.25, "0.25"), (1e-6, "0.001")],
)
def test_the_deadline_is_one_that_the_server_takes(timeout: float, sent: str) -> None:
    with Client(timeout=timeout) as client:
        arguments = client._session.arguments(models_call())
    assert arguments["headers"] == {"x-request-timeout-seconds": sent}


def test_settings_fill_what_is_not_given(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", service.url + "/v1")
    monkeypatch.setenv("IRONCLIW_CLIENT__API_KEY", "icw-secret")
    monkeypatch.setenv("IRONCLIW_CLIENT__TIMEOUT_SECONDS", "9")
    # a proxy of the environment must not be asked for this machine's own loopback
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Client() as client:
        client.models()
        assert repr(client) == f"Client(base_url={service.url!r}, timeout=9)"
    assert service.received[0].headers["authorization"] == "Bearer icw-secret"


def test_the_default_is_the_server_of_this_machine() -> None:
    with Client() as client:
        assert "http://127.0.0.1:8000" in repr(client)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"base_url": "127.0.0.1:8000"}, "must start with http:// or https://"),
        ({"base_url": "http://a:port"}, "is no URL"),
        ({"timeout": 0}, "seconds above 0"),
        ({"api_key": "hunter2\n"}, "no key has"),
    ],
)
def test_a_client_that_cannot_work_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match) as caught:
        Client(**options)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1.0),
        ({}, 1.0),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float) -> None:
    error = error_from_body({"message": "busy"}, 429, headers)
    assert isinstance(error, OverloadedError)
    assert error.retry_after == expected
