"""What `Client` and `AsyncClient` share: calls, answers, errors and the rule for retries.

Nothing here does I/O. A `Call` says what to send and how to read the answer; the clients send it
and wait. So both behave alike, and the rules are tested without a network.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import httpx
from pydantic import ValidationError

from ironcliw.errors import (
    DeadlineExceededError,
    IroncliwError,
    NotRunningError,
    OverloadedError,
    RequestError,
    SettingsError,
    UnavailableError,
)

T = TypeVar("T")
# First wait where the server named none; it doubles with each attempt.
BASE_WAIT_SECONDS = 0.1
# What reading a document of another form raises.
_WRONG_FORM = (ValueError, LookupError, TypeError, AttributeError, ValidationError)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and how to read what comes back.

    Attributes:
        method: HTTP method.
        path: Path below the base URL.
        parse: Turns a successful answer into the result.
        body: Sent as JSON.
        idempotent: Doing it twice is as good as once, so a broken connection is retried.
        retry: Whether to retry at all.
        on_event: Takes the data of each server-sent event as it comes; `parse` ends the stream.
        stream: `parse` is called as soon as the headers are there, without a body, and returns
            what reads the events.
    """

    method: str
    path: str
    parse: Callable[[Answer], T]
    body: Mapping[str, Any] | None = None
    idempotent: bool = True
    retry: bool = True
    on_event: Callable[[str], None] | None = None
    stream: bool = False


def given_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given: None leaves one to the server's default.

    Raises:
        RequestError: a number is infinite or not a number, which JSON has no word for.
    """
    for name, value in fields.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RequestError(f"{name} is {value}; give a finite number", param=name)
    return {name: value for name, value in fields.items() if value is not None}


def body_bytes(body: Mapping[str, Any]) -> bytes:
    """A request body as JSON.

    Raises:
        RequestError: something in it is not JSON's.
    """
    try:
        text = json.dumps(dict(body), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (TypeError, ValueError) as error:
        raise RequestError(f"the request cannot be written as JSON: {error}") from error


def check(answer: Answer, url: str) -> Answer:
    """Return a successful answer.

    Raises:
        IroncliwError: of the class that belongs to the answer's status and code.
    """
    if answer.status < 400:
        return answer
    try:
        details = json.loads(answer.content)["error"]
        error = error_from_body(details, answer.status, answer.headers)
    except (ValueError, KeyError, TypeError, AttributeError):
        # a proxy between us and the server answers in its own words
        text = answer.content[:200].decode("utf-8", "replace").strip()
        details = {"message": f"{url} answered {answer.status}: {text}"}
        error = error_from_body(details, answer.status, answer.headers)
    if request_id := answer.headers.get("x-request-id"):
        error.add_note(f"request id: {request_id}")
    raise error


def error_from_body(
    details: Mapping[str, Any], status: int, headers: Mapping[str, str]
) -> IroncliwError:
    """The error of our tree that `{"message", "type", "param", "code"}` stands for."""
    code = details.get("code")
    cls = _BY_CODE.get(code) if isinstance(code, str) else None
    cls = cls or _BY_STATUS.get(status) or (RequestError if status < 500 else IroncliwError)
    arguments: dict[str, Any] = {"param": details.get("param"), "code": code}
    if issubclass(cls, OverloadedError | UnavailableError):
        arguments["retry_after"] = _retry_after(headers)
    return cls(str(details["message"]), **arguments)


def retry_wait(
    call: Call[Any], error: IroncliwError, attempt: int, max_retries: int, remaining: float
) -> float | None:
    """Seconds to wait before the call is sent again, or None to give up.

    Args:
        call: What was sent.
        error: What came of it.
        attempt: 0 for the first one.
        max_retries: How many more the client allows.
        remaining: Seconds left of the call's deadline.
    """
    if not call.retry or attempt >= max_retries:
        return None
    wait = BASE_WAIT_SECONDS * 2**attempt
    if isinstance(error, UnavailableError) and not call.idempotent:
        return None  # it may have been done
    if isinstance(error, OverloadedError | UnavailableError):
        wait = error.retry_after
    elif not isinstance(error, NotRunningError):
        return None
    return wait if wait < remaining else None


def not_running(base_url: str, error: Exception) -> NotRunningError:
    """Nobody listens at the base URL."""
    return NotRunningError(
        f"no server answers at {base_url} ({error}); start one with `ironcliw up`, or set "
        "client.base_url to the one you mean"
    )


def broken(url: str, error: Exception) -> UnavailableError:
    """The connection broke after the request was sent."""
    return UnavailableError(
        f"{url}: the connection broke before the answer ({str(error) or type(error).__name__})",
        retry_after=BASE_WAIT_SECONDS,
    )


def timed_out(url: str, seconds: float) -> DeadlineExceededError:
    """No answer within the client's time-out."""
    return DeadlineExceededError(
        f"{url} gave no answer within {seconds:g} s; raise client.timeout_seconds, or send less"
    )


def base_url_of(url: str) -> str:
    """A base URL without the `/v1` that the `openai` client wants at its end.

    Raises:
        SettingsError: it is no URL, or neither http nor https.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"client.base_url is {url!r}; it must start with http:// or https://")
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SettingsError(f"client.base_url is {url!r}, which is no URL: {error}") from error
    return url.rstrip("/").removesuffix("/v1")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds; the milliseconds header is the finer one. A date, which we never send, counts 1."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    return 1.0


def read_json(content: bytes | str, convert: Callable[[Any], T]) -> T:
    """Parse an answer.

    Raises:
        IroncliwError: it is no JSON, or not of the form that `convert` reads.
    """
    try:
        return convert(json.loads(content))
    except _WRONG_FORM as error:
        raise IroncliwError(
            f"the answer is not one of this interface ({error}); is client.base_url an Ironcliw "
            "server of this release?",
            code="invalid_answer",
        ) from error


def _tree(cls: type[IroncliwError]) -> Iterator[type[IroncliwError]]:
    """The classes breadth first, so that of two with one status the wider comes first.

    Those of `ironcliw.errors` alone: what others derive depends on what was imported.
    """
    level = [cls]
    while level:
        yield from level
        children = [child for parent in level for child in parent.__subclasses__()]
        level = [child for child in children if child.__module__ == IroncliwError.__module__]


_BY_CODE = {cls.default_code: cls for cls in _tree(IroncliwError) if cls.default_code}
# 502 and 504 are what gateways answer when the server behind them does not
_BY_STATUS: dict[int, type[IroncliwError]] = {502: UnavailableError, 504: UnavailableError}
for _cls in _tree(IroncliwError):
    if not _cls.__name__.startswith("_"):
        _BY_STATUS.setdefault(_cls.status, _cls)
