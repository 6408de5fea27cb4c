"""The outermost ASGI layer: what holds for every request before a route sees it.

Request id, body limit, deadline, cancellation when the client leaves, and one error form on every
path. Plain ASGI, since each layer of Starlette's middleware class costs as much as all of this.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from ironcliw.errors import (
    DeadlineExceededError,
    IroncliwError,
    RequestError,
    RequestTooLargeError,
    UnavailableError,
)
from ironcliw.settings import ServeSettings

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Observe = Callable[[str, str, int, float], None]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_MOST_SECONDS = 3600.0


class Gateway:
    """Wraps the application.

    `scope["state"]` gets `request_id`, `deadline` (on `time.monotonic`), `headers` and, for the
    routes to fill in, `route`.

    Args:
        app: The routes.
        settings: Body limit and default deadline.
        observe: Told method, route, status and seconds of every request.
    """

    def __init__(self, app: App, settings: ServeSettings, observe: Observe | None = None) -> None:
        self._app = app
        self._settings = settings
        self._observe = observe
        self._tasks: set[asyncio.Task[None]] = set()
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
            seconds = _timeout(headers, self._settings.request_timeout_seconds)
            state["deadline"] = started + seconds
            body = await self._read_body(scope, receive, headers, seconds)
            await self._run(scope, _Body(body, receive), answer, seconds)
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
                seconds = time.monotonic() - started
                self._observe(scope["method"], state["route"], answer.status, seconds)

    @property
    def running(self) -> int:
        """Requests that are being answered now."""
        return len(self._tasks)

    async def drain(self, seconds: float) -> None:
        """Refuse what comes from now on, and wait for what is running."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _read_body(
        self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], seconds: float
    ) -> bytes:
        most = self._settings.max_body_bytes
        declared = headers.get(b"content-length")
        if declared is None and b"transfer-encoding" not in headers:
            return b""
        if declared is not None and declared.isdigit() and int(declared) > most:
            raise _too_large(int(declared), most)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGoneError
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > most:
                        raise _too_large(size, most)
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError:
            raise DeadlineExceededError(
                f"the request body did not arrive within {seconds:g} s"
            ) from None

    async def _run(self, scope: Scope, body: _Body, answer: _Answer, seconds: float) -> None:
        task = asyncio.ensure_future(self._app(scope, body, answer))
        watcher = asyncio.ensure_future(body.disconnected())
        self._tasks.add(task)
        try:
            await asyncio.wait(
                {task, watcher}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            gone = watcher.done()
            await _cancel(task)
            if gone:
                raise _ClientGoneError
            raise DeadlineExceededError(
                f"the request was not answered within its {seconds:g} s; ask for longer with the "
                "x-request-timeout-seconds header"
            )
        finally:
            self._tasks.discard(task)
            watcher.cancel()
            if not task.done():
                await _cancel(task)


def internal_error(request_id: str) -> IroncliwError:
    """What the client is told of a bug: enough to find it in the log, nothing of the inside."""
    return IroncliwError(
        f"internal error; the ingress's log has the details under request {request_id}",
        code="internal_error",
    )


class _ClientGoneError(Exception):
    """The client closed the connection: nobody is left to answer."""


class _Body:
    """Gives the application the body that was read already, then tells of a disconnect."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._message: Message | None = {
            "type": "http.request",
            "body": body,
            "more_body": False,
        }
        self._receive = receive
        self._gone = asyncio.Event()

    async def __call__(self) -> Message:
        if self._message is not None:
            message, self._message = self._message, None
            return message
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()


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
        body = orjson.dumps(error.body())
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **error.headers(),
        }
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        if isinstance(error, RequestTooLargeError):
            raw.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": error.status, "headers": raw})
        await self({"type": "http.response.body", "body": body})


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


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


def _too_large(size: int, most: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"the request body has {size} bytes or more; at most {most} are allowed; send fewer "
        "inputs at a time"
    )
