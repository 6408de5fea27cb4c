"""A folder of its own for every test, and a real HTTP server that speaks our interface."""

from __future__ import annotations

import array
import base64
import dataclasses
import json
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ironcliw.schemas import EmbeddingRequest, LoadRequest, UnloadRequest


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `ironcliw.toml` of the developer's own reaches a test."""
    monkeypatch.chdir(tmp_path)


@dataclasses.dataclass
class Reply:
    """What the server answers once; `drop` closes the connection without a word."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    drop: bool = False

    @classmethod
    def error(cls, status: int, code: str, message: str = "no", **headers: str) -> Reply:
        """An error as every path of the interface answers it."""
        body = {"error": {"message": message, "type": "t", "param": "model", "code": code}}
        return cls(status, body, {name.replace("_", "-"): text for name, text in headers.items()})


@dataclasses.dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class FakeService:
    """Answers as the service does, but for the replies scripted for a path."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.received: list[Received] = []
        self.loaded: set[str] = set()
        self._scripts: dict[str, deque[Reply]] = defaultdict(deque)

    def script(self, path: str, *replies: Reply) -> None:
        """Give these replies, in order, before the usual one."""
        self._scripts[path].extend(replies)

    def answer(self, request: Received) -> Reply:
        """The reply to a request."""
        self.received.append(request)
        if self._scripts[request.path]:
            return self._scripts[request.path].popleft()
        if request.path == "/v1/embeddings":
            return self._embed(EmbeddingRequest.model_validate(request.body))
        if request.path in {"/healthz", "/readyz"}:
            return Reply(body={"status": "ok"})
        if request.path == "/v1/status":
            return Reply(body={"nodes": [], "degraded": []})
        if request.path == "/v1/models":
            return Reply(body={"object": "list", "data": [self._model("tiny")]})
        if request.path.startswith("/v1/models/"):
            return self._on_model(request)
        return Reply.error(404, "not_found", f"no route {request.path}")

    def _embed(self, request: EmbeddingRequest) -> Reply:
        texts = [request.input] if isinstance(request.input, str) else request.input
        texts = [str(text) for text in texts]
        assert request.encoding_format == "base64"
        length = request.dimensions or 3
        rows = [
            {"object": "embedding", "index": index, "embedding": encode([len(text)] * length)}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        # out of order on purpose: the index says where each belongs
        body: dict[str, Any] = {"object": "list", "data": rows[::-1], "model": request.model}
        body["usage"] = usage
        if any(len(text) > 1000 for text in texts):
            body["truncated"] = [{"index": 0, "dropped_tokens": 5}]
        headers = {"x-ironcliw-model": request.model, "x-ironcliw-node": "here"}
        return Reply(body=body, headers={**headers, "x-request-id": "req-1"})

    def _on_model(self, request: Received) -> Reply:
        name, _, action = request.path.removeprefix("/v1/models/").partition("/")
        if action == "load":
            load = LoadRequest.model_validate(request.body)
            assert load.stream
            self.loaded.add(name)
            steps: list[Any] = [
                {"model": name, "state": "loading", "fraction": None, "error": None}
            ]
            steps.append({"model": name, "state": "ready", "fraction": 1.0, "error": None})
            return Reply(body=[*map(json.dumps, steps), "[DONE]"])
        if action == "unload":
            UnloadRequest.model_validate(request.body)
            self.loaded.discard(name)
            return Reply(body={})
        if name == "absent":
            return Reply.error(404, "model_not_found", "no model 'absent'; known models: tiny")
        return Reply(body=self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        state = "ready" if name in self.loaded else "absent"
        facts: dict[str, Any] = {
            "task": "embedding",
            "bytes": 91_000_000,
            "dimensions": 3,
            "context": 8,
        }
        return {
            **facts,
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "local",
            "licence": "MIT",
            "available": True,
            "state": state,
        }


def encode(numbers: list[float]) -> str:
    """Numbers as the OpenAI API writes them: little-endian float32 in base64."""
    return base64.b64encode(array.array("f", numbers).tobytes()).decode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: FakeService

    def log_message(self, format: str, *args: object) -> None:
        """Tests keep standard error for the program under test."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.service.answer(Received(self.command, self.path, headers, body))
        if reply.drop:
            self.close_connection = True
            return
        self._write(reply)

    def _write(self, reply: Reply) -> None:
        if isinstance(reply.body, bytes):
            content = reply.body
        elif isinstance(reply.body, list):
            content = "".join(f"data: {event}\n\n" for event in reply.body).encode()
        else:
            content = json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def service() -> Iterator[FakeService]:
    """A service on a free loopback port."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    fake = FakeService(f"http://127.0.0.1:{server.server_port}")
    handler.service = fake  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def reply() -> type[Reply]:
    """The class of scripted replies; helpers cannot be imported from a conftest."""
    return Reply
