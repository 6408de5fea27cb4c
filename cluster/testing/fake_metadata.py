"""The metadata server of one VM, on loopback or at an address of the VM's own network.

What is kept of the real one: nothing without the header `Metadata-Flavor: Google`, directories with
listings and `recursive=true`, an ETag for each value, and requests that wait for a change:
https://cloud.google.com/compute/docs/metadata/querying-metadata.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from cluster.testing.http_server import HttpServer, Request, Response
from cluster.testing.instances import Instance

METADATA_PATH = "/computeMetadata/v1"
_LONGEST_WAIT_SECONDS = 3600.0
_ACCOUNT = "instance/service-accounts/default"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_PROJECT_NUMBER = "123456789012"

TOKEN = "ya29.fake-token-of-the-test-bed"


def metadata_of(instance: Instance, now: float, project: str = "test-project") -> dict[str, str]:
    """The values of a VM's metadata server, by their paths."""
    scheduling = instance.body["scheduling"]
    accounts = instance.body.get("serviceAccounts") or []
    values = {
        "project/project-id": project,
        "project/numeric-project-id": _PROJECT_NUMBER,
        "instance/id": instance.id,
        "instance/name": instance.name,
        "instance/hostname": f"{instance.name}.{instance.zone}.c.{project}.internal",
        "instance/zone": f"projects/{_PROJECT_NUMBER}/zones/{instance.zone}",
        "instance/machine-type": (
            f"projects/{_PROJECT_NUMBER}/machineTypes/{instance.machine_type}"
        ),
        "instance/preempted": _truth(instance.is_preempted(now)),
        "instance/maintenance-event": "NONE",
        "instance/scheduling/preemptible": _truth(instance.is_spot),
        "instance/scheduling/automatic-restart": _truth(scheduling["automaticRestart"]),
        "instance/scheduling/on-host-maintenance": scheduling["onHostMaintenance"],
        "instance/network-interfaces/0/ip": instance.address,
        "instance/network-interfaces/0/mtu": "1460",
        **{f"instance/attributes/{key}": value for key, value in instance.metadata.items()},
    }
    if instance.external_address:
        place = "instance/network-interfaces/0/access-configs/0/external-ip"
        values[place] = instance.external_address
    return values | (service_account(str(accounts[0].get("email"))) if accounts else {})


def service_account(email: str, token: str = TOKEN) -> dict[str, str]:
    """The values of an attached service account; the token opens nothing."""
    grant = {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}
    return {
        f"{_ACCOUNT}/email": email,
        f"{_ACCOUNT}/aliases": "default",
        f"{_ACCOUNT}/scopes": f"{_SCOPE}\n",
        f"{_ACCOUNT}/token": json.dumps(grant),
    }


def _truth(value: object) -> str:
    return "TRUE" if value else "FALSE"


class FakeMetadata:
    """The server; a context manager.

    Args:
        values: By path below `/computeMetadata/v1/`; see `metadata_of`. `instance/preempted` is
            FALSE if it is not given.
        host: Address to listen on.
        port: 0: one that the system gives.
    """

    def __init__(
        self, values: Mapping[str, str] | None = None, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._values = {"instance/preempted": "FALSE", **(values or {})}
        self._changed = threading.Condition()
        self._is_closed = False
        self._failure: int | None = None
        self.requests: list[Request] = []
        """What was asked, in order."""
        self._server = HttpServer(self._answer, host=host, port=port)

    @property
    def url(self) -> str:
        """`http://HOST:PORT/computeMetadata/v1`, for `cluster.cloud.metadata_url`."""
        return self._server.url + METADATA_PATH

    @property
    def host(self) -> str:
        """`HOST:PORT`, for Google's own variable GCE_METADATA_HOST."""
        return self._server.url.partition("//")[2]

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._server.__exit__(kind, error, traceback)

    def update(self, values: Mapping[str, str]) -> None:
        """Set values by their paths; who waits for one of them is told."""
        with self._changed:
            if any(self._values.get(path) != value for path, value in values.items()):
                self._values.update(values)
                self._changed.notify_all()

    def set_attribute(self, name: str, value: str | None) -> None:
        """Set an instance attribute, or remove it."""
        path = f"instance/attributes/{name}"
        if value is not None:
            self.update({path: value})
            return
        with self._changed:
            self._values.pop(path, None)
            self._changed.notify_all()

    def preempt(self) -> None:
        """Say that Google takes the VM back."""
        self.update({"instance/preempted": "TRUE"})

    @contextlib.contextmanager
    def failing(self, status: int = 503) -> Iterator[None]:
        """Within it, every request is answered with an error."""
        self._failure = status
        try:
            yield
        finally:
            self._failure = None

    def _answer(self, request: Request) -> Response:
        self.requests.append(request)
        if self._failure is not None:
            return _reply(self._failure, "The metadata server is not available.")
        flavor = request.headers.get("metadata-flavor")
        if flavor != "Google" or "x-forwarded-for" in request.headers:
            return _reply(403, "Missing Metadata-Flavor:Google header.")
        if request.path.rstrip("/") == "":
            return _reply(200, "computeMetadata/\n")
        if not request.path.startswith(METADATA_PATH + "/"):
            return _reply(404, "Not Found")
        return self._get(request.path.removeprefix(METADATA_PATH + "/"), request.query)

    def _get(self, path: str, query: Mapping[str, str]) -> Response:
        recursive = query.get("recursive", "").lower() == "true"
        if path and not path.endswith("/") and self._is_folder(path):
            return Response(301, b"", {"Location": f"{METADATA_PATH}/{path}/", **_FLAVOR})
        with self._changed:
            value = self._read(path, recursive)
            if value is not None and query.get("wait_for_change", "").lower() == "true":
                value = self._wait(path, recursive, value, query)
        if value is None:
            return _reply(404, "The requested URL was not found on this server.")
        kind = "application/json" if recursive else "application/text"
        return _reply(200, value, {"ETag": etag(value), "Content-Type": kind})

    def _wait(self, path: str, recursive: bool, value: str, query: Mapping[str, str]) -> str | None:
        last = query.get("last_etag", etag(value))
        seconds = float(query.get("timeout_sec", _LONGEST_WAIT_SECONDS))
        until = time.monotonic() + seconds
        found: str | None = value
        while not self._is_closed and found is not None and etag(found) == last:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                break
            found = self._read(path, recursive)
        return self._read(path, recursive)

    def _is_folder(self, path: str) -> bool:
        with self._changed:
            return any(known.startswith(path + "/") for known in self._values)

    def _read(self, path: str, recursive: bool) -> str | None:
        if path in self._values:
            return self._values[path]
        if path and not path.endswith("/"):
            return None
        below = {
            known.removeprefix(path): value
            for known, value in self._values.items()
            if known.startswith(path)
        }
        if not below:
            return None
        if recursive:
            return json.dumps(_tree(below, plain="attributes/" in path))
        names = {name.partition("/")[0] + ("/" if "/" in name else "") for name in below}
        return "".join(f"{name}\n" for name in sorted(names))


def etag(value: str) -> str:
    """The ETag of a value: sixteen hexadecimal digits, as Google's."""
    return hashlib.sha256(value.encode()).hexdigest()[:16]


_FLAVOR = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}


def _reply(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    kind = {"Content-Type": "text/html; charset=UTF-8"}
    return Response(status, text.encode(), {**kind, **_FLAVOR, **(headers or {})})


def _tree(values: Mapping[str, str], *, plain: bool) -> Any:
    """Nested JSON of paths: names in camelCase but for attributes, numbered folders as lists."""
    folders: dict[str, dict[str, str]] = {}
    tree: dict[str, Any] = {}
    for path, value in values.items():
        name, _, rest = path.partition("/")
        if rest:
            folders.setdefault(name, {})[rest] = value
        else:
            tree[name if plain else _camel(name)] = _leaf(name, value, plain)
    for name, inner in folders.items():
        tree[_camel(name)] = _tree(inner, plain=name == "attributes")
    if tree and all(name.isdecimal() for name in tree):
        return [tree[name] for name in sorted(tree, key=int)]
    return tree


def _leaf(name: str, value: str, plain: bool) -> Any:
    # google-auth reads these two as lists
    return value.split() if not plain and name in ("scopes", "aliases") else value


def _camel(name: str) -> str:
    return re.sub(r"-([a-z])", lambda match: match[1].upper(), name)
