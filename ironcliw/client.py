"""A typed client of the HTTP interface; needs neither Ray nor torch nor numpy.

    with Client() as client:
        vectors = client.embed(["a text", "another"]).vectors

Whoever has code on the official `openai` client keeps it: the server speaks that interface too.
This one adds what that one cannot know: who answered, truncation, loading and unloading models,
and the errors of `ironcliw.errors`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from ironcliw import _calls as calls
from ironcliw._calls import Embeddings, LoadProgress, Served
from ironcliw._session import Session, checked
from ironcliw._transport import Answer, Call
from ironcliw.errors import IroncliwError, UnavailableError
from ironcliw.schemas import Health, Model, Priority

__all__ = ["AsyncClient", "Client", "Embeddings", "LoadProgress", "Served"]

T = TypeVar("T")
DEFAULT_MODEL = "all-MiniLM-L6-v2"


class Client:
    """Blocking client. It keeps connections open, so use one for many calls, and close it."""

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
            timeout: Deadline of a call in seconds; None: the setting `client.timeout_seconds`.
            max_retries: How often a call is sent again after a failure that may pass: nobody
                listens, the queue is full, nobody can answer now.

        Raises:
            SettingsError: a setting is wrong, or the URL is neither http nor https.
        """
        self._session = Session(base_url, api_key, timeout, max_retries)
        self._http = httpx.Client(**self._session.options)

    def __repr__(self) -> str:
        return f"Client({self._session})"

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

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate: bool = True,
        priority: Priority = "normal",
    ) -> Embeddings:
        """Embed one text or several.

        Args:
            texts: One text, or several; the vectors come in their order.
            model: An embedding model of `models()`.
            dimensions: Keep the first N dimensions and normalise again.
            prompt_name: A prompt of the model's own, put before each text.
            truncate: Cut texts to the model's window; False: refuse longer ones.
            priority: Order among waiting requests.

        Raises:
            RequestError: the request breaks a rule of the server.
            ModelNotFoundError: no such model.
            OverloadedError: the queue is still full after the retries.
            NotRunningError: nobody listens at the base URL.
        """
        fields = {"model": model, "dimensions": dimensions, "prompt_name": prompt_name}
        fields |= {"truncate": truncate, "priority": priority}
        return self._run(calls.embed_call(texts, fields))

    def models(self) -> list[Model]:
        """Every model of the server's catalogue, loaded or not."""
        return self._run(calls.models_call())

    def model(self, model_id: str) -> Model:
        """One model.

        Raises:
            ModelNotFoundError: no such model; the message names the known ones.
        """
        return self._run(calls.model_call(model_id))

    def load_model(
        self,
        model_id: str,
        *,
        pin: bool = False,
        ttl_seconds: float | None = None,
        progress: Callable[[LoadProgress], None] | None = None,
    ) -> Model:
        """Load a model and wait until it is ready; `timeout` does not limit the load itself.

        Args:
            model_id: A model of `models()`.
            pin: Never evict it.
            ttl_seconds: Unload it after this idle time.
            progress: Called with each step.

        Raises:
            ModelLoadError: its files are absent, damaged or unsupported.
            MemoryBudgetError: there is no room for it.
        """
        self._run(calls.load_call(model_id, pin, ttl_seconds, progress))
        return self.model(model_id)

    def unload_model(self, model_id: str, *, force: bool = False) -> Model:
        """Unload a model; waits until the requests that use it are done.

        Args:
            model_id: A loaded model.
            force: Unload it although it is pinned.

        Raises:
            ConflictError: it is pinned, and `force` is not given.
        """
        self._run(calls.unload_call(model_id, force))
        return self.model(model_id)

    def health(self) -> Health:
        """Whether the server's process answers."""
        return self._health("/healthz")

    def ready(self) -> Health:
        """Whether each pinned model has just done a forward pass."""
        return self._health("/readyz")

    def status(self) -> dict[str, Any]:
        """Nodes, models, queues, memory and what is degraded."""
        return self._run(calls.status_call())

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send JSON to any route and return the JSON that it answers."""
        return self._run(calls.raw_call(method, path, body))

    def _health(self, path: str) -> Health:
        try:
            return self._run(calls.health_call(path))
        except UnavailableError as error:
            return calls.unhealthy(error)

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
                if call.on_line is None or response.is_error:
                    response.read()
                else:
                    for line in response.iter_lines():
                        call.on_line(line)
                return checked(response, call)
        except httpx.RequestError as error:
            raise self._session.translated(call, error) from error


class AsyncClient:
    """The same for asyncio; each method does what `Client`'s does."""

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
        return f"AsyncClient({self._session})"

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

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate: bool = True,
        priority: Priority = "normal",
    ) -> Embeddings:
        """Embed one text or several, as `Client.embed` does."""
        fields = {"model": model, "dimensions": dimensions, "prompt_name": prompt_name}
        fields |= {"truncate": truncate, "priority": priority}
        return await self._run(calls.embed_call(texts, fields))

    async def models(self) -> list[Model]:
        """Every model of the server's catalogue, loaded or not."""
        return await self._run(calls.models_call())

    async def model(self, model_id: str) -> Model:
        """One model."""
        return await self._run(calls.model_call(model_id))

    async def load_model(
        self,
        model_id: str,
        *,
        pin: bool = False,
        ttl_seconds: float | None = None,
        progress: Callable[[LoadProgress], None] | None = None,
    ) -> Model:
        """Load a model and wait until it is ready, as `Client.load_model` does."""
        await self._run(calls.load_call(model_id, pin, ttl_seconds, progress))
        return await self.model(model_id)

    async def unload_model(self, model_id: str, *, force: bool = False) -> Model:
        """Unload a model."""
        await self._run(calls.unload_call(model_id, force))
        return await self.model(model_id)

    async def health(self) -> Health:
        """Whether the server's process answers."""
        return await self._health("/healthz")

    async def ready(self) -> Health:
        """Whether each pinned model has just done a forward pass."""
        return await self._health("/readyz")

    async def status(self) -> dict[str, Any]:
        """Nodes, models, queues, memory and what is degraded."""
        return await self._run(calls.status_call())

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send JSON to any route and return the JSON that it answers."""
        return await self._run(calls.raw_call(method, path, body))

    async def _health(self, path: str) -> Health:
        try:
            return await self._run(calls.health_call(path))
        except UnavailableError as error:
            return calls.unhealthy(error)

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
                if call.on_line is None or response.is_error:
                    await response.aread()
                else:
                    async for line in response.aiter_lines():
                        call.on_line(line)
                return checked(response, call)
        except httpx.RequestError as error:
            raise self._session.translated(call, error) from error
