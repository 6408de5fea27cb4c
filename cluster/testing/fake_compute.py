"""A Compute Engine on loopback: a real HTTP server before a world.

    with FakeCompute() as compute:
        client = InstancesClient(
            credentials=AnonymousCredentials(),
            client_options=ClientOptions(api_endpoint=compute.url),
        )

The zone operations of `insert()` and `delete()` would be polled at Google's own address; use
`insert_unary`, `delete_unary` and a `ZoneOperationsClient` of the same endpoint.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Self

from cluster.testing.api_errors import ApiError, forbidden, storm, unauthenticated
from cluster.testing.control_plane import ControlPlane
from cluster.testing.faults import ApiStorm, Denied, LostReply
from cluster.testing.http_server import HttpServer, Request, Response
from cluster.testing.routes import dispatch
from cluster.testing.world import Call, World
from ironcliw.setting_sections import CloudSettings

_WAIT = re.compile(r".*/zones/(?P<zone>[^/]+)/operations/(?P<name>[^/]+)/wait")
_WRITES = re.compile(r".*/zones/(?P<zone>[^/]+)/instances(?:/(?P<name>[^/]+))?")
# the real one waits up to two minutes; a client must call again either way
_LONGEST_WAIT_SECONDS = 2.0
_POLL_SECONDS = 0.02


class FakeCompute:
    """The server; a context manager.

    Args:
        world: What it shows; by default a new one with the system's clock.
        host: Address to listen on.
        port: 0: one that the system gives.
        token: The access token that requests must bear; None: anybody may ask.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
    ) -> None:
        self.world = world or World()
        self._plane = ControlPlane(self.world)
        self._token = token
        self._server = HttpServer(self._answer, host=host, port=port)

    @property
    def url(self) -> str:
        """`http://HOST:PORT`, for `api_endpoint`."""
        return self._server.url

    @property
    def project(self) -> str:
        """The only project that it knows."""
        return self.world.catalogue.project

    def cloud(self, **changes: Any) -> CloudSettings:
        """Settings of a cluster that uses this cloud."""
        base = {
            "project": self.project,
            "zones": self.world.catalogue.zones,
            "api_endpoint": self.url,
        }
        return CloudSettings.model_validate({**base, **changes})

    def count(self, verb: str = "*", path: str = "*", **query: str) -> int:
        """How many requests came, by patterns of the verb and path, and parts of the query."""
        with self.world.lock:
            return sum(
                fnmatchcase(call.verb, verb)
                and fnmatchcase(call.path, path)
                and query.items() <= call.query.items()
                for call in self.world.calls
            )

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.__exit__(kind, error, traceback)

    def _answer(self, request: Request) -> Response:
        world = self.world
        with world.lock:
            world.step()
            call = Call(request.verb, request.path, request.query, world.now)
            world.calls.append(call)
        try:
            self._guard(request)
            if (wait := _WAIT.fullmatch(request.path)) is not None:
                self._wait(wait["zone"], wait["name"])
            body = json.loads(request.body) if request.body else {}
            with world.lock:
                world.step()
                answer = dispatch(self._plane, request.verb, request.path, request.query, body)
            return self._response(request, 200, answer, str(body.get("name", "")))
        except json.JSONDecodeError as error:
            refused = ApiError(400, "parseError", f"The body is no JSON: {error}")
            return self._response(request, 400, refused.body())
        except ApiError as error:
            return self._response(request, error.status, error.body())

    def _guard(self, request: Request) -> None:
        """Faults and credentials, before anything is looked at."""
        faults, now = self.world.faults, self.world.now
        with self.world.lock:
            now = self.world.now
            stormy = faults.active(ApiStorm, now)
            if stormy is not None and request.verb in stormy.verbs:
                faults.use(ApiStorm, now)
                raise storm(stormy.status)
            denied = faults.use(Denied, now)
        if denied is not None and denied.status == 403:
            raise forbidden("compute.instances.list", f"projects/{self.project}")
        bearer = request.headers.get("authorization", "")
        if denied is not None or (self._token and bearer != f"Bearer {self._token}"):
            raise unauthenticated()

    def _wait(self, zone: str, name: str) -> None:
        """Let time pass until an operation is done, or for the longest time."""
        world = self.world
        until = world.step() + _LONGEST_WAIT_SECONDS
        operation = world.operations.get((zone, name))
        while operation is not None and operation.ends_at > world.now and world.now < until:
            left = min(operation.ends_at, until) - world.now
            world.clock.sleep(min(left, _POLL_SECONDS))
            world.step()

    def _response(
        self, request: Request, status: int, answer: dict[str, Any], new_name: str = ""
    ) -> Response:
        world = self.world
        with world.lock:
            lost = world.faults.active(LostReply, world.now)
            is_lost = lost is not None and request.verb == lost.verb
            is_lost = is_lost and lost is not None and fnmatchcase(request.path, lost.path)
            if is_lost:
                world.faults.use(LostReply, world.now)
            return Response(
                status,
                json.dumps(answer).encode(),
                {"Content-Type": "application/json; charset=UTF-8"},
                then=lambda: self._answered(request, status, new_name),
                is_lost=is_lost,
                at=world.now + world.skew(),
            )

    def _answered(self, request: Request, status: int, new_name: str) -> None:
        match = _WRITES.fullmatch(request.path)
        if match is None or request.verb == "GET" or status != 200:
            return
        with self.world.lock:
            self.world.record("answered", match["zone"], match["name"] or new_name)
            self.world.step()
