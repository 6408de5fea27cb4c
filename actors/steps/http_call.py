"""The http step: one request, to an address that was checked.

    http: {method: POST, url: "https://api.example.com/v1", json: {...}, headers: {...}}

gives `{status, headers, json}`, or `text` in place of `json` where the answer is none. A name is
resolved once, here; the connection goes to one of the addresses that were checked, with the name in
the `Host` header and in TLS, so that a name that means something else a moment later changes
nothing. Redirects are followed by hand, and each is checked as the first URL was. A proxy of the
environment is not used: it would resolve the name again.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import SplitResult, urlencode, urljoin

import httpx
from pydantic import Field, StrictStr

from actors.routing import LOCAL
from actors.steps.addresses import (
    PORTS,
    Address,
    check_address,
    check_host,
    host_and_port,
    is_listed,
    parse_url,
)
from actors.steps.kinds import Done, parse_block
from actors.workflow.tasks import StepError, StepTask
from ironcliw.actor_settings import ActorsSettings
from ironcliw.schemas.base import Request
from ironcliw.schemas.workflows import Place

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_MOST_REDIRECTS = 5
_SILENCE_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Of answers that a later attempt may better (RFC 9110): time-out, conflict of state, too early,
# too many requests, and what servers say of themselves.
_RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
# Ours to set: they say how long the body is, where it goes, and what the connection does.
_OUR_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "expect"}
    | {"trailer", "proxy-authorization", "proxy-connection", "keep-alive"}
)
_SECRET_HEADERS = frozenset({"authorization", "cookie"})


class HttpForm(Request):
    """The block of an http step."""

    url: StrictStr
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: dict[StrictStr, StrictStr] = Field({})
    params: dict[StrictStr, StrictStr | int | float | bool] = Field({})
    json_: Any = Field(None, alias="json")
    body: StrictStr | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None


async def resolve(host: str, port: int) -> Sequence[str]:
    """Every address of a host, as the machine's resolver says."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class HttpCall:
    """Executes http steps.

    Args:
        settings: Lists of hosts, and the largest answer.
        resolver: Addresses of a host.
        verify: TLS settings; None: the machine's own.
    """

    def __init__(
        self,
        settings: ActorsSettings,
        *,
        resolver: Resolve = resolve,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._resolve = resolver
        self._verify = verify

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        """Send the request of a step; see `actors.steps.kinds.KindExecutor`.

        Raises:
            StepError: it breaks a rule, nobody answers, or the answer is an error.
        """
        request = _first(parse_block(HttpForm, task), task.key)
        acted = False
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                response = await self._send(request, task.place)
                target = response.headers.get("location")
                if response.status_code not in _REDIRECTS or target is None:
                    return Done.of(_result(response), task, place=LOCAL)
                # it was carried out, and what came of it stands elsewhere
                acted |= _becomes_get(request, response.status_code)
                request = _redirected(request, response.status_code, target)
        except StepError as error:
            error.acted |= acted
            raise
        raise StepError(
            "error",
            f"{request.url}: more than {_MOST_REDIRECTS} redirects",
            retryable=False,
            acted=acted,
        )

    async def _send(self, request: _Request, place: Place) -> httpx.Response:
        parts = parse_url(request.url)
        check_host(parts, self._settings.http_hosts)
        error: httpx.HTTPError | None = None
        for address in await self._addresses(parts, place):
            try:
                return await self._ask(request, parts, address)
            except (httpx.ConnectError, httpx.ConnectTimeout) as failed:
                _check_certificate(failed, parts)
                error = failed  # nothing was sent: the next address may do
            except httpx.HTTPError as failed:
                raise StepError(
                    "lost", f"{request.method} {_shown(parts)}: {_why(failed)}"
                ) from failed
        host, _ = host_and_port(parts)
        why = "no address" if error is None else _why(error)
        raise StepError("refused", f"{host} cannot be reached: {why}") from error

    async def _addresses(self, parts: SplitResult, place: Place) -> list[Address]:
        host, port = host_and_port(parts)
        private = is_listed(host, port, parts.scheme, self._settings.http_private_hosts)
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise StepError("refused", f"the name {host!r} cannot be resolved: {error}") from error
        # one bad address is reason enough: whoever answers for the name chose all of them
        addresses = [check_address(host, text, private_allowed=private) for text in found]
        for address in addresses:
            if place == "private" and not address.is_loopback:
                raise StepError(
                    "invalid",
                    f"the step's place is private, and {host} is at {address}, which is not this "
                    "machine; give the step another place if its data may leave the head",
                    retryable=False,
                )
        return addresses

    async def _ask(self, request: _Request, parts: SplitResult, address: Address) -> httpx.Response:
        host, port = host_and_port(parts)
        at = f"[{address}]" if address.version == 6 else str(address)
        named = f"[{host}]" if ":" in host else host
        netloc = named if port == PORTS[parts.scheme] else f"{named}:{port}"
        url = parts._replace(netloc=f"{at}:{port}", fragment="").geturl()
        headers = {**request.headers, "host": netloc}
        timeout = httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
        if self._verify is None:
            self._verify = httpx.create_ssl_context(trust_env=False)  # it reads a large file
        # one client a request: a connection kept for one name could serve another of that address
        async with (
            httpx.AsyncClient(verify=self._verify, trust_env=False, timeout=timeout) as client,
            client.stream(
                request.method,
                url,
                headers=headers,
                content=request.content,
                extensions={"sni_hostname": host},
            ) as response,
        ):
            content = await self._read(response, parts)
        read = httpx.Headers(response.headers)
        # the content is decoded already
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            read.pop(name, None)
        return httpx.Response(response.status_code, headers=read, content=content)

    async def _read(self, response: httpx.Response, parts: SplitResult) -> bytes:
        content, most = bytearray(), self._settings.http_response_bytes
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > most:
                raise StepError(
                    "oversized",
                    f"{_shown(parts)} answers with more than actors.http_response_bytes={most}",
                    retryable=False,
                    acted=True,
                )
        return bytes(content)


def _check_certificate(error: BaseException, parts: SplitResult) -> None:
    """Say so where a server was reached and is not who it should be: that is no bad connection.

    Raises:
        StepError: its certificate is not accepted; nothing was sent.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            host, _ = host_and_port(parts)
            raise StepError(
                "refused",
                f"the certificate that {host} shows is not accepted: {cause.verify_message}",
                retryable=False,
            ) from error
        cause = cause.__cause__ or cause.__context__


def _first(form: HttpForm, key: str) -> _Request:
    headers = {name.lower(): value for name, value in form.headers.items()}
    ours = sorted(_OUR_HEADERS & headers.keys())
    if ours:
        raise StepError(
            "invalid", f"http.headers may not set {', '.join(ours)}: the step does", retryable=False
        )
    if form.json_ is not None and form.body is not None:
        raise StepError("invalid", "http: give either `json` or `body`, not both", retryable=False)
    content = None if form.body is None else form.body.encode()
    if form.json_ is not None:
        content = json.dumps(form.json_, allow_nan=False).encode()
        headers.setdefault("content-type", "application/json")
    parts = parse_url(form.url)
    if form.params:
        more = urlencode({name: _text(value) for name, value in form.params.items()})
        parts = parts._replace(query=f"{parts.query}&{more}" if parts.query else more)
    headers = {"idempotency-key": key, "user-agent": "ironcliw", **headers}
    return _Request(form.method, parts.geturl(), headers, content)


def _text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _redirected(request: _Request, status: int, target: str) -> _Request:
    """The request that a redirect asks for (RFC 9110, section 15.4).

    Raises:
        StepError: it leads from https to http.
    """
    before = parse_url(request.url)
    after = parse_url(urljoin(request.url, target))
    if before.scheme == "https" and after.scheme == "http":
        raise StepError(
            "invalid", f"{_shown(before)} redirects to http, without encryption", retryable=False
        )
    headers = dict(request.headers)
    if host_and_port(before) != host_and_port(after):
        headers = {name: text for name, text in headers.items() if name not in _SECRET_HEADERS}
    turned = replace(request, url=after.geturl(), headers=headers)
    if not _becomes_get(request, status):
        return turned
    kept = {name: text for name, text in headers.items() if name != "content-type"}
    return replace(turned, method="GET", headers=kept, content=None)


def _becomes_get(request: _Request, status: int) -> bool:
    return (status == 303 and request.method != "HEAD") or (
        status in {301, 302} and request.method == "POST"
    )


def _result(response: httpx.Response) -> dict[str, Any]:
    status = response.status_code
    if status >= 400:
        raise StepError(
            "error",
            f"the answer is {status}: {response.text[:500]}",
            retryable=status in _RETRYABLE,
            retry_after=_retry_after(response),
        )
    value: dict[str, Any] = {"status": status, "headers": dict(response.headers)}
    try:
        value["json"] = response.json()
    except ValueError:
        value["text"] = response.text
    return value


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds; a date, which is allowed too, is left to the retry policy."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() else None


def _shown(parts: SplitResult) -> str:
    """A URL for messages: the query may hold a secret."""
    return parts._replace(query="", fragment="").geturl()


def _why(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
