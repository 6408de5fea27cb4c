"""The http step against a real server on loopback, with a resolver of the test's own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from actors.steps.http_call import HttpCall, resolve
from actors.workflow.tasks import StepError, StepTask
from ironcliw.actor_settings import ActorsSettings

Reply = tuple[int, dict[str, str], bytes]


class Server:
    """Answers with what the test scripts by path, and remembers what came."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.received: list[tuple[str, str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.received.append((self.command, self.path, headers, body))
                status, more, content = outer.replies.get(
                    self.path.partition("?")[0], (200, {}, b'{"ok": true}')
                )
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = _answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


class Names:
    """A resolver: each look-up of a name gives the next of its answers; the last one stays."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = {name.replace("_", "."): list(found) for name, found in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        found = self.answers[host]
        return [found.pop(0) if len(found) > 1 else found[0]]


def task(**inputs: Any) -> StepTask:
    return StepTask("w", "s", None, 1, "http", "", inputs, "w/s")


def run_call(call: HttpCall, **inputs: Any) -> Any:
    done = asyncio.run(call.run(task(**inputs), "local", lambda node: None))
    return json.loads(done.content)


Ask = Callable[..., Any]


@pytest.fixture
def ask(server: Server) -> Ask:
    """Runs a step; `HOST` in its URL stands for a listed name of the server."""

    def run(
        resolver: Any = None, hosts: Sequence[str] = (), most: int = 100_000, **inputs: Any
    ) -> Any:
        host = f"api.test:{server.port}"
        inputs["url"] = inputs["url"].replace("HOST", host).replace("PORT", str(server.port))
        settings = ActorsSettings(
            http_hosts=(host, *hosts), http_private_hosts=(host,), http_response_bytes=most
        )
        call = HttpCall(settings, resolver=resolver or Names(api_test=["127.0.0.1"]))
        return run_call(call, **inputs)

    return run


def test_a_request_and_its_answer(ask: Ask, server: Server) -> None:
    result = ask(
        url="http://HOST/a?x=1", method="POST", json={"q": 1}, headers={"X-A": "b"}, params={"y": 2}
    )
    assert (result["status"], result["json"]) == (200, {"ok": True})
    [(method, path, headers, body)] = server.received
    assert (method, path, json.loads(body)) == ("POST", "/a?x=1&y=2", {"q": 1})
    assert headers["host"] == f"api.test:{server.port}"
    assert (headers["idempotency-key"], headers["x-a"]) == ("w/s", "b")


def test_an_answer_that_is_no_json_is_text(ask: Ask, server: Server) -> None:
    server.replies["/t"] = (200, {"content-type": "text/plain; charset=utf-8"}, b"hello")
    assert ask(url="http://HOST/t")["text"] == "hello"


@pytest.mark.parametrize(
    ("status", "retryable"), [(400, False), (404, False), (429, True), (500, True), (503, True)]
)
def test_an_error_says_whether_to_try_again(
    ask: Ask, server: Server, status: int, retryable: bool
) -> None:
    server.replies["/e"] = (status, {"retry-after": "7"}, b"no")
    with pytest.raises(StepError, match=f"the answer is {status}: no") as caught:
        ask(url="http://HOST/e")
    assert (caught.value.retryable, caught.value.retry_after) == (retryable, 7.0)


def test_a_host_that_is_not_listed_is_not_even_resolved(ask: Ask) -> None:
    names = Names()
    with pytest.raises(StepError, match=r"evil\.test is not on the list"):
        ask(names, url="http://evil.test/")
    assert names.asked == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1"]
)
def test_a_listed_public_name_that_points_inside(ask: Ask, server: Server, address: str) -> None:
    with pytest.raises(StepError, match=r"which is not a public address|no step may ask"):
        ask(
            Names(in_test=[address]),
            hosts=["in.test:PORT".replace("PORT", str(server.port))],
            url="http://in.test:PORT/",
        )
    assert server.received == []


def test_a_private_name_may_still_not_point_at_metadata(ask: Ask) -> None:
    with pytest.raises(StepError, match="link-local"):
        ask(Names(api_test=["169.254.169.254"]), url="http://HOST/")


@pytest.mark.parametrize(
    "host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.16689662"]
)
def test_other_ways_to_write_an_address_are_judged_by_where_they_lead(ask: Ask, host: str) -> None:
    # the machine's own resolver reads all of these as 169.254.169.254
    with pytest.raises(StepError, match=r"is at 169\.254\.169\.254, a link-local"):
        ask(resolve, hosts=[host], url=f"http://{host}/")


def test_a_name_that_changes_between_check_and_connection(ask: Ask, server: Server) -> None:
    # 127.0.0.1 is where the server listens; whoever resolved again would get no answer
    names = Names(api_test=["127.0.0.1", "169.254.169.254"])
    assert ask(names, url="http://HOST/")["status"] == 200
    assert names.asked == ["api.test"], "resolved once"


def test_the_next_address_is_tried_and_all_are_judged(server: Server) -> None:
    settings = ActorsSettings(
        http_hosts=(f"api.test:{server.port}",), http_private_hosts=(f"api.test:{server.port}",)
    )

    async def two(host: str, port: int) -> Sequence[str]:
        return ["::1", "127.0.0.1"]

    async def one_bad(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", "169.254.169.254"]

    url = f"http://api.test:{server.port}/"
    assert run_call(HttpCall(settings, resolver=two), url=url)["status"] == 200
    with pytest.raises(StepError, match="link-local"):
        run_call(HttpCall(settings, resolver=one_bad), url=url)
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://169.254.169.254/", r"169\.254\.169\.254 is a link-local address"),
        ("http://metadata.google.internal/", "is a metadata server"),
        ("//evil.test/", r"evil\.test is not on the list"),
        ("file:///etc/passwd", "must read http"),
        ("http://in.test:PORT/", "is not a public address"),
    ],
)
def test_a_redirect_is_checked_as_the_first(
    ask: Ask, server: Server, target: str, why: str
) -> None:
    target = target.replace("PORT", str(server.port))
    server.replies["/r"] = (302, {"location": target}, b"")
    names = Names(api_test=["127.0.0.1"], in_test=["127.0.0.1"])
    with pytest.raises(StepError, match=why):
        ask(names, hosts=[f"in.test:{server.port}"], url="http://HOST/r")
    assert len(server.received) == 1


def test_a_redirect_is_followed_without_secrets_to_another_host(ask: Ask, server: Server) -> None:
    server.replies["/r"] = (307, {"location": f"http://127.0.0.1:{server.port}/next"}, b"")

    async def here(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    with pytest.raises(StepError, match="is not a public address"):
        ask(here, hosts=[f"127.0.0.1:{server.port}"], url="http://HOST/r")
    server.replies["/r"] = (307, {"location": "/next"}, b"")
    ask(url="http://HOST/r", method="POST", json=1, headers={"authorization": "Bearer x"})
    method, path, headers, body = server.received[-1]
    assert (method, path, body) == ("POST", "/next", b"1")
    assert headers["authorization"] == "Bearer x", "the same host keeps it"


def test_secrets_stay_with_their_host() -> None:
    from actors.steps.http_call import _redirected, _Request

    first = _Request("POST", "https://a.test/", {"authorization": "x", "cookie": "y"}, b"1")
    assert _redirected(first, 307, "https://b.test/").headers == {}
    assert _redirected(first, 303, "/b").method == "GET"
    with pytest.raises(StepError, match="redirects to http, without encryption"):
        _redirected(first, 301, "http://a.test/")


def test_redirects_without_end(ask: Ask, server: Server) -> None:
    server.replies["/r"] = (301, {"location": "/r"}, b"")
    with pytest.raises(StepError, match="more than 5 redirects"):
        ask(url="http://HOST/r")
    assert len(server.received) == 6


def test_an_answer_over_the_limit(ask: Ask, server: Server) -> None:
    server.replies["/big"] = (200, {}, b"x" * 5000)
    with pytest.raises(StepError, match=r"more than actors\.http_response_bytes=2000") as caught:
        ask(url="http://HOST/big", most=2000)
    assert (caught.value.failure, caught.value.acted) == ("oversized", True)


def test_what_was_done_before_a_redirect_is_not_forgotten(ask: Ask, server: Server) -> None:
    server.replies["/order"] = (303, {"location": "/orders/1"}, b"")
    server.replies["/orders/1"] = (500, {}, b"no")
    for method, acted in (("POST", True), ("HEAD", False)):
        with pytest.raises(StepError, match="the answer is 500") as caught:
            ask(url="http://HOST/order", method=method)
        assert caught.value.acted is acted


def test_a_private_step_asks_this_machine_alone(server: Server) -> None:
    url = f"http://api.test:{server.port}/"
    host = f"api.test:{server.port}"
    settings = ActorsSettings(http_hosts=(host,), http_private_hosts=(host,))
    private = replace(task(url=url), place="private")

    def ask_at(address: str) -> None:
        call = HttpCall(settings, resolver=Names(api_test=[address]))
        asyncio.run(call.run(private, "local", lambda node: None))

    with pytest.raises(
        StepError, match=r"place is private, and api\.test is at 10\.1\.2\.3"
    ) as caught:
        ask_at("10.1.2.3")
    assert not caught.value.retryable
    ask_at("127.0.0.1")
    assert len(server.received) == 1


def test_nobody_listens(ask: Ask, server: Server) -> None:
    server.close()
    with pytest.raises(StepError, match=r"api\.test cannot be reached") as caught:
        ask(url="http://HOST/")
    assert (caught.value.failure, caught.value.retryable) == ("refused", True)


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({"url": "http://HOST/", "metod": "GET"}, r"http\.metod: .*did you mean 'method'"),
        ({"url": "http://HOST/", "method": "TRACE"}, r"http\.method: Input should be"),
        ({"url": "http://HOST/", "headers": {"Host": "x"}}, "may not set host"),
        ({"url": "http://HOST/", "json": 1, "body": "2"}, "either `json` or `body`"),
    ],
)
def test_a_block_that_is_wrong(ask: Ask, inputs: dict[str, Any], why: str) -> None:
    with pytest.raises(StepError, match=why) as caught:
        ask(**inputs)
    assert (caught.value.failure, caught.value.retryable) == ("invalid", False)
