"""A real HTTP server that answers with scripted streams, cut and delayed where a test wants it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_SECONDS = 60.0
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
DECISIONS = "/v1/decisions"


@dataclasses.dataclass
class Script:
    """One answer.

    Attributes:
        chunks: Written one after the other, each in a packet of its own.
        status: Of the answer.
        headers: Beside those that belong to a stream.
        cut: Break the connection after the chunks.
        endless: Repeat the last chunk until the client leaves.
        hold: Wait for it before the last chunk.
    """

    chunks: list[bytes]
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    cut: bool = False
    endless: bool = False
    hold: threading.Event | None = None
    kind: str = "text/event-stream"


def event(data: Any) -> bytes:
    """One event as the service writes it."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def chat_chunk(text: str | None, finish: str | None = None) -> dict[str, Any]:
    """One chunk of a streamed chat."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def spoken(*texts: str, finish: str = "stop") -> list[bytes]:
    """The events of a whole streamed chat."""
    role = {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": len(texts)}}
    last = [event(chat_chunk(None, finish)), event(usage), event("[DONE]")]
    return [event(role), *(event(chat_chunk(text)) for text in texts), *last]


def whole(body: Any, status: int = 200, **headers: str) -> Script:
    """An answer that is no stream."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Script([content], status, named, kind="application/json")


def refusal(status: int, code: str, message: str = "no", **headers: str) -> Script:
    """An error as every path of the interface answers it."""
    error = {"message": message, "type": "t", "param": None, "code": code}
    return whole({"error": error}, status, **headers)


def chat_answer(*texts: str) -> dict[str, Any]:
    """The body of a whole chat."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    return {"model": "m", "choices": choices, "usage": usage}


def decided(*answers: dict[str, Any]) -> dict[str, Any]:
    """The body of a decision."""
    usage = {"input_tokens": 5, "output_tokens": 0, "total_tokens": 5}
    return {"model": "m", "answers": list(answers), "usage": usage}


class StreamingService:
    """Answers each request with the next script."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[tuple[str, dict[str, str], Any]] = []
        self.scripts: deque[Script] = deque()
        self.client_left = threading.Event()

    @property
    def bodies(self) -> list[Any]:
        """The requests' bodies in order."""
        return [body for _, _, body in self.received]

    def answer_with(self, *scripts: Script | list[bytes]) -> None:
        """Give these answers, in order."""
        self.scripts.extend(one if isinstance(one, Script) else Script(one) for one in scripts)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: StreamingService

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
        self.service.received.append((self.path, headers, body))
        script = self.service.scripts.popleft()
        self.send_response(script.status)
        for name, value in {"content-type": script.kind, **script.headers}.items():
            self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            self._write(script)
        except ConnectionError:
            self.service.client_left.set()
            self.close_connection = True

    def _write(self, script: Script) -> None:
        *first, last = script.chunks
        for chunk in first:
            self._chunk(chunk)
        if script.hold is not None:
            assert script.hold.wait(PATIENCE_SECONDS), "nobody released the held answer"
        self._chunk(last)
        for _ in range(100_000 if script.endless else 0):
            self._chunk(last)
        if script.cut:
            self.close_connection = True
        else:
            self._chunk(b"")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()


@contextlib.contextmanager
def streaming_service() -> Iterator[StreamingService]:
    """A server on a free loopback port for the length of a `with` block."""
    service = StreamingService()
    handler = type("Handler", (_Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
