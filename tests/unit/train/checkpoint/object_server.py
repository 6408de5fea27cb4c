"""A server on this machine that speaks as much of S3's and of GCS's HTTP as real clients need.

Objects live in memory. What a test wants to go wrong is queued: an HTTP status, or a connection
that is reset. S3: https://docs.aws.amazon.com/AmazonS3/latest/API (path-style addresses; neither
signatures nor versions). GCS: https://cloud.google.com/storage/docs/json_api (simple, multipart and
resumable uploads). Anything else is answered with 501, which no client takes for success.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.unit.train.checkpoint import gcs_dialect, s3_dialect

RESET = 0
"""In place of a status: the connection is reset before an answer."""
LOST = -1
"""The request is carried out and its answer lost."""


@dataclass(slots=True)
class Request:
    """What a dialect answers."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + "".join(f" {k}={v}" for k, v in self.query.items())


@dataclass(slots=True)
class Answer:
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    """Of the body that a HEAD request does not get."""


@dataclass(slots=True)
class Objects:
    """One bucket's content, what was asked, and what is to go wrong.

    Attributes:
        content: Bytes by key.
        metadata: What clients say of an object, by key; of GCS alone.
        uploads: Unfinished ones: parts by number, by upload.
        asked: Every request, in order.
        faults: (pattern, status) in order: the next request that matches gets the first one.
    """

    content: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    modified: dict[str, float] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    faults: list[tuple[str, int]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    port: int = 0

    def fail(self, pattern: str, *statuses: int) -> None:
        """The next requests that match a pattern fail, one after the other."""
        self.faults.extend((pattern, status) for status in statuses)

    def fault_of(self, request: str) -> int | None:
        """What is to go wrong with a request, taken from the queue."""
        for index, (pattern, status) in enumerate(self.faults):
            if re.search(pattern, request):
                del self.faults[index]
                return status
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # headers and body go in two packets, and the second would wait for an acknowledgement
    disable_nagle_algorithm = True
    objects: Objects

    def log_message(self, format: str, *args: object) -> None:
        pass

    def serve(self) -> None:
        request = self._request()
        with self.objects.lock:
            self.objects.asked.append(str(request))
            fault = self.objects.fault_of(str(request))
            answer = self._answer(request, fault)
        if fault in (RESET, LOST):
            # a linger of 0 seconds: closing sends RST instead of FIN
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
        else:
            self._send(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def _answer(self, request: Request, fault: int | None) -> Answer:
        if fault == RESET:
            return Answer()
        if fault is not None and fault != LOST:
            return Answer(fault, s3_dialect.error(fault))
        is_gcs = request.path.startswith(("/storage/v1/", "/upload/storage/v1/"))
        return (gcs_dialect if is_gcs else s3_dialect).answer(self.objects, request)

    def _request(self) -> Request:
        address = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(address.query, keep_blank_values=True).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        return Request(self.command, unquote(address.path), query, headers, self._body(headers))

    def _body(self, headers: dict[str, str]) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", ""):
            return self.rfile.read(int(headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        length = len(answer.body) if answer.length is None else answer.length
        for key, value in {"Content-Length": str(length), **answer.headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


@contextmanager
def serve_objects() -> Iterator[Objects]:
    """The server, on a free port of this machine, while the block runs."""
    objects = Objects()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"objects": objects})
    )
    server.daemon_threads = True
    objects.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield objects
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
