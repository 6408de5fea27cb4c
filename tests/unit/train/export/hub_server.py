"""A server on this machine that speaks as much of the Hub's HTTP as its client needs to publish.

Repositories live in memory; large files are sent by git-LFS, not by Xet, whose server is another
one. What a test wants to go wrong is queued, as for buckets. From huggingface_hub's own client code
(hf_api.py, _commit_api.py, lfs.py, 2.4). Anything else is answered with 501.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.unit.train.checkpoint.object_server import LOST, RESET

TOKEN = "hf_right"
_LARGE = (".safetensors", ".gguf", ".bin")


@dataclass(slots=True)
class Repository:
    """One repository: its files, and its commits, the oldest first."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[str] = field(default_factory=lambda: ["initial commit"])

    @property
    def sha(self) -> str:
        return hashlib.sha1(json.dumps(self.commits).encode()).hexdigest()


@dataclass(slots=True)
class Hub:
    """What is there, what was asked, and what is to go wrong."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    faults: list[tuple[str, int]] = field(default_factory=list)
    later: list[tuple[str, int]] = field(default_factory=list)
    retry_after: str | None = "1"
    lock: threading.RLock = field(default_factory=threading.RLock)
    url: str = ""

    def fail(self, pattern: str, *statuses: int) -> None:
        """The next requests that match a pattern fail, one after the other."""
        self.faults.extend((pattern, status) for status in statuses)

    def after_commit(self, pattern: str, *statuses: int) -> None:
        """As `fail`, from the first commit on."""
        self.later.extend((pattern, status) for status in statuses)

    def fault_of(self, request: str) -> int | None:
        for index, (pattern, status) in enumerate(self.faults):
            if re.search(pattern, request):
                del self.faults[index]
                return status
        return None

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Status and JSON."""
        if path.startswith("/lfs/"):
            return self._object(method, path.removeprefix("/lfs/"), body)
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials in Authorization header"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/repos/delete":
            given = json.loads(body)
            del self.repositories[f"{given['organization']}/{given['name']}"]
            return 200, {}
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
            return self._model(found[1], found[2] or "", body)
        return 501, {"error": f"no such thing: {method} {path}"}

    def _create(self, given: dict[str, Any]) -> tuple[int, Any]:
        name = f"{given['organization']}/{given['name']}"
        if given["organization"] == "others":
            return 403, {"error": 'You don\'t have the rights to create a model under "others"'}
        if name in self.repositories:
            return 409, {"error": "You already created this model repo"}
        self.repositories[name] = Repository(given.get("visibility") == "private")
        return 200, {"url": f"{self.url}/{name}", "name": name, "id": name}

    def _model(self, name: str, rest: str, body: bytes) -> tuple[int, Any]:
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}
        repository = self.repositories[name]
        if rest in ("", "/revision/main"):
            siblings = [{"rfilename": file} for file in repository.files]
            return 200, {"id": name, "sha": repository.sha, "siblings": siblings, "tags": []}
        if rest == "/preupload/main":
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for each in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if rest == "/commit/main":
            return self._commit(name, repository, body)
        return 501, {"error": rest}

    def _commit(self, name: str, repository: Repository, body: bytes) -> tuple[int, Any]:
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(repository.files)
        message = ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                if value.get("parentCommit", repository.sha) != repository.sha:
                    return 412, {"error": "A commit has happened since. Please refresh"}
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return 400, {"error": f"the object {value['oid']} was not uploaded"}
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return 501, {"error": line["key"]}
        repository.files = files
        repository.commits.append(message)
        self.faults += self.later
        self.later.clear()
        url = f"{self.url}/{name}/commit/{repository.sha}"
        return 200, {"commitUrl": url, "commitOid": repository.sha, "success": True}

    def _batch(self, given: dict[str, Any]) -> tuple[int, Any]:
        objects = [
            {
                "oid": each["oid"],
                "size": each["size"],
                "actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}", "header": {}}},
            }
            for each in given["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def _object(self, method: str, oid: str, body: bytes) -> tuple[int, Any]:
        if method != "PUT" or hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "its bytes are others"}
        self.objects[oid] = body
        return 200, {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = {key.lower(): value for key, value in self.headers.items()}
        body = self._body(headers)
        with self.hub.lock:
            request = f"{self.command} {path}"
            self.hub.asked.append(request)
            fault = self.hub.fault_of(request)
            if fault is None or fault == LOST:
                status, answer = self.hub.answer(self.command, path, headers, body)
            else:
                status, answer = fault, {"error": f"made to fail with {fault}"}
        if fault in (RESET, LOST):
            # a linger of 0 seconds: closing sends RST instead of FIN
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
            return
        encoded = json.dumps(answer).encode()
        self.send_response(status)
        if status == 429 and self.hub.retry_after is not None:
            self.send_header("Retry-After", self.hub.retry_after)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def _body(self, headers: dict[str, str]) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", ""):
            return self.rfile.read(int(headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """The server, on a free port of this machine, while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
