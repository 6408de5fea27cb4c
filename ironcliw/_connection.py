"""Sending calls, blocking and with asyncio: retries, deadlines and streams of text.

The two classes do the same step by step; what can be decided without I/O stands in
`ironcliw._session`, `ironcliw._transport` and `ironcliw._events`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from ironcliw._calls import Served
from ironcliw._events import EventReader
from ironcliw._generation import TextEvents, TokenUsage
from ironcliw._session import Session, checked
from ironcliw._transport import Answer, Call
from ironcliw.errors import IroncliwError

T = TypeVar("T")


@dataclasses.dataclass(slots=True)
class _Progress:
    """What a stream has told so far. Apart from the stream, or the two would hold each other."""

    events: TextEvents | None = None


class _Told:
    """What both kinds of stream know besides the text."""

    _progress: _Progress

    @property
    def served(self) -> Served | None:
        """Who answers; None before the first piece."""
        return self._progress.events.served if self._progress.events else None

    @property
    def finish_reason(self) -> str | None:
        """`stop`, or `length` where the answer was cut; None before its end."""
        return self._progress.events.finish_reason if self._progress.events else None

    @property
    def usage(self) -> TokenUsage | None:
        """Exact token counts; None before the stream's end."""
        return self._progress.events.usage if self._progress.events else None


class TextStream(_Told, Iterator[str]):
    """An answer in pieces, as they are made; nothing is sent before the first is asked for.

    Leaving it early, by `close()`, a `with` block or dropping it, closes the connection, at which
    the server stops the work. A failure is retried before the first piece and never after it.
    """

    def __init__(self, pieces: Generator[str], progress: _Progress) -> None:
        self._pieces = pieces
        self._progress = progress

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the stream; harmless after its end."""
        self._pieces.close()


class AsyncTextStream(_Told, AsyncIterator[str]):
    """The same for asyncio; leave it early with `aclose()` or an `async with` block."""

    def __init__(self, pieces: AsyncGenerator[str], progress: _Progress) -> None:
        self._pieces = pieces
        self._progress = progress

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave the stream; harmless after its end."""
        await self._pieces.aclose()


class Connection:
    """Sends calls and waits."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | None = None,
        max_retries: int = 2,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            base_url: For example `http://127.0.0.1:8000`; None: the setting `client.base_url`,
                else the server of this machine.
            api_key: None: the setting `client.api_key`.
            timeout: Deadline of a call in seconds, of a stream the longest silence; None: the
                setting `client.timeout_seconds`.
            max_retries: How often a call is sent again after a failure that may pass: nobody
                listens, the queue is full, nobody can answer now.

        Raises:
            SettingsError: a setting is wrong, or the URL is neither http nor https.
        """
        self._session = Session(base_url, api_key, timeout, max_retries)
        self._http = httpx.Client(**self._session.options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._session})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _run(self, call: Call[T]) -> T:
        started = time.monotonic()
        for attempt in itertools.count():
            try:
                return call.parse(self._send(call))
            except IroncliwError as error:
                wait = self._session.wait(call, error, attempt, started)
            time.sleep(wait)
        raise AssertionError("unreachable: the attempts are counted without end")

    def _send(self, call: Call[Any]) -> Answer:
        try:
            with self._http.stream(**self._session.arguments(call)) as response:
                if call.on_event is None or response.is_error:
                    response.read()
                else:
                    reader = EventReader()
                    for chunk in response.iter_bytes():
                        for data in reader.feed(chunk):
                            call.on_event(data)
                return checked(response, call)
        except httpx.RequestError as error:
            raise self._session.translated(call, error) from error

    def _stream(self, call: Call[TextEvents]) -> TextStream:
        progress = _Progress()
        return TextStream(self._pieces(call, progress), progress)

    def _pieces(self, call: Call[TextEvents], progress: _Progress) -> Generator[str]:
        started = time.monotonic()
        for attempt in itertools.count():
            begun = False
            try:
                with contextlib.closing(self._texts(call, progress)) as texts:
                    for text in texts:
                        begun = True
                        yield text
                return
            except IroncliwError as error:
                if begun:
                    raise
                wait = self._session.wait(call, error, attempt, started)
            time.sleep(wait)

    def _texts(self, call: Call[TextEvents], progress: _Progress) -> Generator[str]:
        events = None
        try:
            with self._http.stream(**self._session.arguments(call)) as response:
                if response.is_error:
                    response.read()
                events = progress.events = call.parse(checked(response, call))
                reader = EventReader()
                for chunk in response.iter_bytes():
                    for data in reader.feed(chunk):
                        if text := events.feed(data):
                            yield text
                events.finish()
        except httpx.RequestError as error:
            if events is None or not events.done:
                raise self._session.translated(call, error) from error


class AsyncConnection:
    """The same for asyncio."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | None = None,
        max_retries: int = 2,
    ) -> None:
        """Prepare a client, as `Client` does."""
        self._session = Session(base_url, api_key, timeout, max_retries)
        self._http = httpx.AsyncClient(**self._session.options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._session})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _run(self, call: Call[T]) -> T:
        started = time.monotonic()
        for attempt in itertools.count():
            try:
                return call.parse(await self._send(call))
            except IroncliwError as error:
                wait = self._session.wait(call, error, attempt, started)
            await asyncio.sleep(wait)
        raise AssertionError("unreachable: the attempts are counted without end")

    async def _send(self, call: Call[Any]) -> Answer:
        try:
            async with self._http.stream(**self._session.arguments(call)) as response:
                if call.on_event is None or response.is_error:
                    await response.aread()
                else:
                    reader = EventReader()
                    async for chunk in response.aiter_bytes():
                        for data in reader.feed(chunk):
                            call.on_event(data)
                return checked(response, call)
        except httpx.RequestError as error:
            raise self._session.translated(call, error) from error

    def _stream(self, call: Call[TextEvents]) -> AsyncTextStream:
        progress = _Progress()
        return AsyncTextStream(self._pieces(call, progress), progress)

    async def _pieces(self, call: Call[TextEvents], progress: _Progress) -> AsyncGenerator[str]:
        started = time.monotonic()
        for attempt in itertools.count():
            begun = False
            try:
                async with contextlib.aclosing(self._texts(call, progress)) as texts:
                    async for text in texts:
                        begun = True
                        yield text
                return
            except IroncliwError as error:
                if begun:
                    raise
                wait = self._session.wait(call, error, attempt, started)
            await asyncio.sleep(wait)

    async def _texts(self, call: Call[TextEvents], progress: _Progress) -> AsyncGenerator[str]:
        events = None
        try:
            async with self._http.stream(**self._session.arguments(call)) as response:
                if response.is_error:
                    await response.aread()
                events = progress.events = call.parse(checked(response, call))
                reader = EventReader()
                async for chunk in response.aiter_bytes():
                    for data in reader.feed(chunk):
                        if text := events.feed(data):
                            yield text
                events.finish()
        except httpx.RequestError as error:
            if events is None or not events.done:
                raise self._session.translated(call, error) from error
