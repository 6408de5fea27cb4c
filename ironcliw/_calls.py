"""The calls of the HTTP interface, for `Client` and `AsyncClient` alike, and their results."""

from __future__ import annotations

import array
import base64
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ironcliw._events import END_OF_STREAM
from ironcliw._transport import Answer, Call, error_from_body, given_fields, read_json
from ironcliw.errors import IroncliwError, RequestError, UnavailableError
from ironcliw.schemas import Health, Model, ModelList, Truncation, Usage

DEFAULT_MODEL = "all-MiniLM-L6-v2"

_NOT_DEGRADED = frozenset({"", "0", "false", "none"})


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """Who answered, from the `x-ironcliw-*` headers.

    Attributes:
        model: The model that answered.
        variant: Its deployment: `local` or `spot`.
        node: The machine.
        degraded: Why the answer is not the usual one; None where it is.
        request_id: Quote it when you report a problem.
    """

    model: str | None
    variant: str | None
    node: str | None
    degraded: str | None
    request_id: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors, one a text and in the texts' order.

    Attributes:
        model: The model's id.
        vectors: float32 values as Python floats, shape [texts][dimensions].
        usage: Exact token counts.
        truncated: The texts that were cut to the model's window.
        served: Who answered.
    """

    model: str
    vectors: list[list[float]]
    usage: Usage
    truncated: tuple[Truncation, ...]
    served: Served


@dataclasses.dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far the load of a model is; `fraction` runs from 0 to 1, None where it is not known."""

    model: str
    state: str
    fraction: float | None


class LoadEvents:
    """Reads the events of `POST /v1/models/{id}/load` with `stream`."""

    def __init__(self, progress: Callable[[LoadProgress], None] | None) -> None:
        self._progress = progress
        self._done = False

    def feed(self, data: str) -> None:
        """Take the data of one event.

        Raises:
            IroncliwError: it is an error event: the load failed.
        """
        if data == END_OF_STREAM:
            self._done = True
            return
        event = read_json(data, _load_event)
        if isinstance(event, IroncliwError):
            raise event
        if self._progress is not None:
            self._progress(event)

    def finish(self, answer: Answer) -> None:
        """Check, at the end of the stream, that it came to its end."""
        if not self._done:
            raise UnavailableError("the connection ended before the model was loaded; try again")


def embed_call(texts: str | Sequence[str], fields: Mapping[str, Any]) -> Call[Embeddings]:
    """`POST /v1/embeddings`; fields that are None are left to the server's default."""
    listed = texts if isinstance(texts, str) else list(texts)
    # base64 is a quarter of the bytes of JSON numbers, and exact
    body = {**given_fields(fields), "input": listed, "encoding_format": "base64"}
    return Call("POST", "/v1/embeddings", _parse_embeddings, body)


def models_call() -> Call[list[Model]]:
    """`GET /v1/models`."""
    return Call(
        "GET", "/v1/models", lambda answer: read_json(answer.content, ModelList.model_validate).data
    )


def model_call(model_id: str) -> Call[Model]:
    """`GET /v1/models/{id}`."""
    return Call(
        "GET", _model_path(model_id), lambda answer: read_json(answer.content, Model.model_validate)
    )


def load_call(
    model_id: str,
    pin: bool,
    ttl_seconds: float | None,
    progress: Callable[[LoadProgress], None] | None,
) -> Call[None]:
    """`POST /v1/models/{id}/load`, as a stream of events."""
    events = LoadEvents(progress)
    body: dict[str, Any] = {"pin": pin, "stream": True}
    if ttl_seconds is not None:
        body["ttl_seconds"] = ttl_seconds
    path = _model_path(model_id) + "/load"
    return Call("POST", path, events.finish, body, on_event=events.feed)


def unload_call(model_id: str, force: bool) -> Call[None]:
    """`POST /v1/models/{id}/unload`."""
    path = _model_path(model_id) + "/unload"
    return Call("POST", path, lambda answer: None, {"force": force})


def health_call(path: str) -> Call[Health]:
    """`GET /healthz` or `/readyz`, never retried: the caller wants to know how it is now."""
    return Call(
        "GET", path, lambda answer: read_json(answer.content, Health.model_validate), retry=False
    )


def status_call() -> Call[dict[str, Any]]:
    """`GET /v1/status`."""
    return Call("GET", "/v1/status", lambda answer: read_json(answer.content, dict[str, Any]))


def raw_call(method: str, path: str, body: Mapping[str, Any] | None) -> Call[Any]:
    """Any route. Only reading is sure to be idempotent."""
    reading = method.upper() in {"GET", "HEAD"}
    return Call(method.upper(), path, lambda answer: read_json(answer.content, _any), body, reading)


def unhealthy(error: UnavailableError) -> Health:
    """What a 503 of `/healthz` or `/readyz` says, as a value."""
    return Health(status="unhealthy", detail={"reason": error.message})


def _model_path(model_id: str) -> str:
    if not model_id:
        raise RequestError("the model id is empty; give one of `ironcliw models`", param="model")
    return "/v1/models/" + quote(model_id, safe="")


def _load_event(document: Any) -> LoadProgress | IroncliwError:
    error = document.get("error")
    # a step may carry a null or a text there; the body of an error is an object
    if isinstance(error, dict):
        # the status line was sent long before, so the code alone tells the class
        return error_from_body(error, 500, {})
    return LoadProgress(document["model"], document["state"], document.get("fraction"))


def _parse_embeddings(answer: Answer) -> Embeddings:
    return read_json(answer.content, lambda document: _embeddings(document, answer.headers))


def _embeddings(document: Any, headers: Mapping[str, str]) -> Embeddings:
    rows = sorted(document["data"], key=lambda row: row["index"])
    return Embeddings(
        model=document["model"],
        vectors=[_vector(row["embedding"]) for row in rows],
        usage=Usage.model_validate(document["usage"]),
        truncated=tuple(
            Truncation.model_validate(item) for item in document.get("truncated") or ()
        ),
        served=served_by(headers),
    )


def _vector(encoded: str) -> list[float]:
    """Little-endian float32 in base64, as the OpenAI API writes it."""
    numbers = array.array("f", base64.b64decode(encoded, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def served_by(headers: Mapping[str, str]) -> Served:
    """Who answered, from the headers of the answer."""
    degraded = headers.get("x-ironcliw-degraded", "")
    return Served(
        model=headers.get("x-ironcliw-model"),
        variant=headers.get("x-ironcliw-variant"),
        node=headers.get("x-ironcliw-node"),
        degraded=None if degraded.lower() in _NOT_DEGRADED else degraded,
        request_id=headers.get("x-request-id"),
    )


def _any(document: Any) -> Any:
    return document
