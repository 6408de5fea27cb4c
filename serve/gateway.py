"""The outermost ASGI layer: what holds for every request before a route sees it.

Request id, body limit, deadline, cancellation when the client leaves, and one error form on every
path. Plain ASGI, since each layer of Starlette's middleware class costs as much as all of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from ironcliw.errors import (
    DeadlineExceededError,
    IroncliwError,
    RequestError,
    RequestTooLargeError,
    UnavailableError,
)
from ironcliw.setting_sections import ServeSettings

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Observe = Callable[[str, str, int, float], None]
Admit = Callable[[str, dict[bytes, bytes]], None]
# (status, headers, JSON body)
Whole = tuple[int, dict[str, str], bytes]
# (request state, body) to an answer
WholeHandler = Callable[[dict[str, Any], bytes], Awaitable[Whole]]
# the same, or to what sends it piece by piece
Direct = Callable[[dict[str, Any], bytes], Awaitable[Whole | App]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_MOST_SECONDS = 3600.0
_DISCARD_SECONDS = 2.0
# After a request's deadline: whoever answers ends at it, and a stream with an event that says so.
# A cancellation in the same moment would take that word from it.
_BACKSTOP_SECONDS = 0.1
_GENERATION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})


class Gateway:
    """Wraps the application.

    `scope["state"]` gets `request_id`, `deadline` (on `time.monotonic`), `headers` and, for the
    routes to fill in, `route`.

    Args:
        app: The routes.
        settings: Body limit and default deadline.
        observe: Told method, route, status and seconds of every request.
        admit: Told path and headers before the body is read; raises to refuse the request.
        direct: Handlers by method and path that are called at once: FastAPI's layers cost more
            than a cached embedding.
    """

    def __init__(
        self,
        app: App,
        settings: ServeSettings,
        observe: Observe | None = None,
        admit: Admit = lambda path, headers: None,
        direct: Mapping[tuple[str, str], Direct] | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._observe = observe
        self._admit = admit
        self._direct = direct or {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        started = time.monotonic()
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        state = scope.setdefault("state", {})
        state.update(request_id=request_id.decode(), headers=headers, route="unmatched")
        answer = _Answer(send, request_id)
        try:
            if self._closing:
                raise UnavailableError("the service is stopping", retry_after=5.0)
            seconds = _timeout(headers, self._default_seconds(scope["path"]))
            state["deadline"] = started + seconds
            # before the body is read: strangers shall not fill the memory
            self._admit(scope["path"], headers)
            await self._guarded(scope, receive, answer, seconds)
        except _ClientGoneError:
            answer.status = 499
        except IroncliwError as error:
            await answer.fail(error)
        # the boundary of the service: whatever went wrong becomes an answer and a log line
        except Exception:
            logger.exception("request %s failed", request_id.decode())
            await answer.fail(internal_error(request_id.decode()))
        finally:
            if self._observe is not None:
                elapsed = time.monotonic() - started
                self._observe(scope["method"], state["route"], answer.status, elapsed)

    @property
    def running(self) -> int:
        """Requests that are being answered now."""
        return len(self._tasks)

    async def drain(self, seconds: float) -> None:
        """Refuse what comes from now on, and wait for what is running."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def _default_seconds(self, path: str) -> float:
        """A load may fetch gigabytes first, and events come for as long as a workflow runs."""
        if path.startswith("/v1/workflows/") and path.endswith("/events"):
            return _MOST_SECONDS
        if path.startswith("/v1/models/") and path.endswith(("/load", "/unload")):
            return _MOST_SECONDS
        if path in _GENERATION_PATHS:
            return self._settings.generation_timeout_seconds
        return self._settings.request_timeout_seconds

    async def _guarded(
        self, scope: Scope, receive: Receive, answer: _Answer, seconds: float
    ) -> None:
        """Answer, but stop at the deadline and when the client leaves."""
        task = asyncio.current_task()
        assert task is not None
        guard = _Guard(task)
        timer = asyncio.get_running_loop().call_later(
            seconds + _BACKSTOP_SECONDS, guard.stop, "deadline"
        )
        watcher: asyncio.Task[None] | None = None
        self._tasks.add(task)
        try:
            body = await self._read_body(scope, receive)
            watcher = asyncio.create_task(guard.watch(receive))
            direct = self._direct.get((scope["method"], scope["path"]))
            if direct is None:
                await self._app(scope, _Body(body, guard), answer)
                return
            answered = await direct(scope["state"], body)
            if isinstance(answered, tuple):
                await answer.whole(*answered)
            else:
                await answered(scope, _Body(b"", guard), answer)
        except asyncio.CancelledError:
            if guard.reason is None:
                raise
            task.uncancel()
            if guard.reason == "gone":
                raise _ClientGoneError from None
            raise DeadlineExceededError(
                f"the request was not answered within its {seconds:g} s; ask for longer with the "
                "x-request-timeout-seconds header"
            ) from None
        finally:
            self._tasks.discard(task)
            timer.cancel()
            if watcher is not None:
                watcher.cancel()

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        headers, most = scope["state"]["headers"], self._settings.max_body_bytes
        declared = headers.get(b"content-length")
        if declared is None and b"transfer-encoding" not in headers:
            return b""
        if declared is not None and declared.isdigit() and int(declared) > most:
            if b"expect" not in headers:
                await _discard(receive)
            raise _too_large(int(declared), most)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGoneError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > most:
                if message.get("more_body", False):
                    await _discard(receive)
                raise _too_large(size, most)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def internal_error(request_id: str) -> IroncliwError:
    """What the client is told of a bug: enough to find it in the log, nothing of the inside."""
    return IroncliwError(
        f"internal error; the ingress's log has the details under request {request_id}",
        code="internal_error",
    )


class _ClientGoneError(Exception):
    """The client closed the connection: nobody is left to answer."""


class _Guard:
    """Cancels a request's task, once, and remembers why."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.reason: str | None = None
        self.gone = asyncio.Event()
        self._task = task

    def stop(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
            self._task.cancel()

    async def watch(self, receive: Receive) -> None:
        """Stop the task when the client leaves; to be cancelled when the answer is out."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
        self.stop("gone")


class _Body:
    """Gives the application the body that was read already, then tells of a disconnect."""

    def __init__(self, body: bytes, guard: _Guard) -> None:
        self._message: Message | None = {
            "type": "http.request",
            "body": body,
            "more_body": False,
        }
        self._guard = guard

    async def __call__(self) -> Message:
        if self._message is not None:
            message, self._message = self._message, None
            return message
        await self._guard.gone.wait()
        return {"type": "http.disconnect"}


class _Answer:
    """The `send` of one request: adds the request id, and knows what has been sent."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self.status = 500
        self._send = send
        self._request_id = request_id
        self._started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._request_id)]
        await self._send(message)

    async def fail(self, error: IroncliwError) -> None:
        """Answer with the error, unless an answer is under way already."""
        if self._started:
            # too late for a status; ending the body early tells the client that it is not whole
            self.status = error.status
            return
        headers = error.headers()
        if isinstance(error, RequestTooLargeError):
            headers["connection"] = "close"
        await self.whole(error.status, headers, orjson.dumps(error.body()))

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer with a JSON body in one piece."""
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        raw += [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self({"type": "http.response.start", "status": status, "headers": raw})
        await self({"type": "http.response.body", "body": body})


def _request_id(headers: dict[bytes, bytes]) -> bytes:
    given = headers.get(b"x-request-id", b"")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()


def _timeout(headers: dict[bytes, bytes], default: float) -> float:
    given = headers.get(b"x-request-timeout-seconds")
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _MOST_SECONDS:
        raise RequestError(
            f"x-request-timeout-seconds is {given.decode('latin-1')!r}; give seconds above 0 and "
            f"up to {_MOST_SECONDS:g}",
            param="x-request-timeout-seconds",
        )
    return seconds


async def _discard(receive: Receive) -> None:
    """Take what the client still sends, for a while and without keeping it.

    One that is cut off in the middle of sending sees a broken connection instead of the answer.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while (await receive()).get("more_body", False):
                pass


def _too_large(size: int, most: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"the request body has {size} bytes or more; at most {most} are allowed; send fewer "
        "inputs at a time"
    )
