"""The HTTP routes of text generation: whole answers, and streams of server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from ironcliw.schemas.generation import (
    ChatCompletion,
    ChatCompletionRequest,
    Completion,
    CompletionRequest,
    GenerationRequest,
)
from serve.embeddings import Served
from serve.form_errors import parse_form
from serve.gateway import Whole, internal_error
from serve.generation.answering import Answering
from serve.generation.answers import chat_events, completion_events, error_event
from serve.http_forms import ERRORS, body_schema, served_headers
from serve.keys import Scope
from serve.service import Service

logger = logging.getLogger(__name__)

FormT = TypeVar("FormT", bound=GenerationRequest)
Handler = Callable[[dict[str, Any], bytes], Awaitable["Whole | EventStream"]]

_RESPONSES: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    200: {
        "description": "The whole answer; with `stream`, server-sent events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
}


def add_generation(app: FastAPI, service: Service) -> None:
    """Add `POST /v1/chat/completions` and `POST /v1/completions`."""
    answer_chat, answer_completion = chat_handler(service), completion_handler(service)

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses=_RESPONSES,
        openapi_extra=body_schema(ChatCompletionRequest),
        tags=["inference"],
    )
    async def chat(request: Request) -> Response:
        """The assistant's next message in a conversation."""
        return _response(await answer_chat(request.scope["state"], await request.body()))

    @app.post(
        "/v1/completions",
        response_model=Completion,
        responses=_RESPONSES,
        openapi_extra=body_schema(CompletionRequest),
        tags=["inference"],
    )
    async def completions(request: Request) -> Response:
        """How one text, or several, may go on."""
        return _response(await answer_completion(request.scope["state"], await request.body()))


def chat_handler(service: Service) -> Handler:
    """`POST /v1/chat/completions` from bytes to bytes, or to events."""
    generation = service.generation
    kind = _Kind(
        "/v1/chat/completions",
        ChatCompletionRequest,
        generation.open_chat,
        generation.answer_chat,
        chat_events,
    )
    return _handler(service, kind)


def completion_handler(service: Service) -> Handler:
    """`POST /v1/completions` from bytes to bytes, or to events."""
    generation = service.generation
    kind = _Kind(
        "/v1/completions",
        CompletionRequest,
        generation.open_completion,
        generation.answer_completion,
        completion_events,
    )
    return _handler(service, kind)


@dataclass(frozen=True, slots=True)
class _Kind(Generic[FormT]):
    """What differs between the two routes."""

    route: str
    form: type[FormT]
    open: Callable[[FormT, float], Awaitable[Answering]]
    answer: Callable[[FormT, float], Awaitable[tuple[bytes, Served]]]
    events: Callable[..., AsyncGenerator[bytes, None]]


def _handler(service: Service, kind: _Kind[FormT]) -> Handler:
    async def answer(state: dict[str, Any], body: bytes) -> Whole | EventStream:
        slot = _enter(service, state, kind.route)
        wanted = service.aliases.applied(parse_form(body, kind.form))
        deadline: float = state["deadline"]
        if wanted.stream:
            usage = _wants_usage(wanted)
            return EventStream(
                slot,
                lambda: kind.open(wanted, deadline),
                lambda answering: kind.events(answering, usage=usage),
            )
        with slot:
            content, served = await kind.answer(wanted, deadline)
        return 200, served_headers(served), content

    return answer


def _enter(service: Service, state: dict[str, Any], route: str) -> AbstractContextManager[None]:
    """Name the route for the metrics and check the key; its slot, to be held to the answer's end.

    Raises:
        AuthenticationError, PermissionDeniedError: see `serve.access.Gatekeeper`.
    """
    state["route"] = route
    gatekeeper = service.gatekeeper
    return gatekeeper.slot(gatekeeper.authenticate(state["headers"], Scope.INFER))


def _response(answered: Whole | EventStream) -> Response:
    if isinstance(answered, EventStream):
        return answered
    status, headers, body = answered
    return Response(body, status, headers, "application/json")


class EventStream(Response):
    """Server-sent events that begin when the first piece is there.

    An error before that becomes an answer with its status, one after it the last event. Unlike
    Starlette's StreamingResponse, this runs in the request's own task and closes its source also
    when it is cancelled while sending, so that a client that leaves frees the slot at once.

    Args:
        slot: Held to the end of the stream.
        start: Starts the answers.
        events: Bytes of the events.
    """

    def __init__(
        self,
        slot: AbstractContextManager[None],
        start: Callable[[], Awaitable[Answering]],
        events: Callable[[Answering], AsyncGenerator[bytes, None]],
    ) -> None:
        super().__init__()
        self._slot = slot
        self._start = start
        self._events = events

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer."""
        request_id = scope["state"]["request_id"]
        with self._slot:
            answering = await self._start()
            guarded = _with_internal_errors(self._events(answering), request_id)
            async with aclosing(answering), aclosing(guarded) as events:
                headers = {
                    "content-type": "text/event-stream; charset=utf-8",
                    "cache-control": "no-cache",
                    "x-accel-buffering": "no",  # nginx would collect the events otherwise
                    **served_headers(answering.served),
                }
                raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
                await send({"type": "http.response.start", "status": 200, "headers": raw})
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _with_internal_errors(
    events: AsyncGenerator[bytes, None], request_id: str
) -> AsyncGenerator[bytes, None]:
    """The events; a bug becomes the last of them, and a log line."""
    async with aclosing(events):
        try:
            async for event in events:
                yield event
        # the boundary of the service, as in `serve.gateway`: too late for a status
        except Exception:
            logger.exception("request %s failed in the middle of its stream", request_id)
            yield error_event(internal_error(request_id))


def _wants_usage(request: GenerationRequest) -> bool:
    return bool(request.stream_options and request.stream_options.include_usage)
