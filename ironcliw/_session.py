"""Where a client sends to, with which key and for how long: the part that both clients share."""

from __future__ import annotations

import time
from typing import Any

import httpx

from ironcliw._transport import (
    Answer,
    Call,
    base_url_of,
    body_bytes,
    broken,
    check,
    not_running,
    retry_wait,
    timed_out,
)
from ironcliw.errors import IroncliwError, SettingsError
from ironcliw.settings import LOOPBACK_HOSTS, load_settings

# A load may take long, but says so: a stream silent for this time has lost its server.
STREAM_SILENCE_SECONDS = 600.0

# The server takes deadlines up to an hour (serve/gateway.py); a client may wait for longer.
LONGEST_DEADLINE_SECONDS = 3600.0


class Session:
    """Where to, with which key, how long: the same for both clients."""

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        timeout: float | None,
        max_retries: int,
    ) -> None:
        settings = load_settings()
        secret = settings.client.api_key
        if api_key is None and secret is not None:
            api_key = secret.get_secret_value()
        self.base_url = base_url_of(base_url or settings.base_url)
        self.timeout = _checked_timeout(settings.client.timeout_seconds, timeout)
        self.max_retries = max_retries
        headers = {"authorization": f"Bearer {_checked_key(api_key)}"} if api_key else {}
        self.options: dict[str, Any] = {
            "base_url": self.base_url,
            "headers": headers,
            "timeout": self.timeout,
            # a proxy of the environment cannot reach this machine's loopback
            "trust_env": httpx.URL(self.base_url).host not in LOOPBACK_HOSTS,
        }

    def __str__(self) -> str:
        return f"base_url={self.base_url!r}, timeout={self.timeout:g}"

    def arguments(self, call: Call[Any]) -> dict[str, Any]:
        """Keyword arguments of httpx for a call."""
        arguments: dict[str, Any] = {"method": call.method, "url": call.path}
        headers: dict[str, str] = {}
        if call.body is not None:
            arguments["content"] = body_bytes(call.body)
            headers["content-type"] = "application/json"
        if call.on_event is not None:
            arguments["timeout"] = httpx.Timeout(self.timeout, read=STREAM_SILENCE_SECONDS)
        elif not call.stream:  # of a stream, the time-out limits each silence, not the whole
            # the server drops the request when nobody waits for it any more
            headers["x-request-timeout-seconds"] = _deadline(self.timeout)
        arguments["headers"] = headers
        return arguments

    def translated(self, call: Call[Any], error: httpx.RequestError) -> IroncliwError:
        """Our error for one of httpx's."""
        url = self.base_url + call.path
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return not_running(self.base_url, error)
        if isinstance(error, httpx.TimeoutException):
            return timed_out(url, self.timeout)
        return broken(url, error)

    def wait(self, call: Call[Any], error: IroncliwError, attempt: int, started: float) -> float:
        """Seconds until the next attempt; raises the error where there is none."""
        remaining = started + self.timeout - time.monotonic()
        wait = retry_wait(call, error, attempt, self.max_retries, remaining)
        if wait is None:
            raise error
        return wait


def checked(response: httpx.Response, call: Call[Any]) -> Answer:
    """The answer; of a stream its head alone, else read to its end.

    Raises:
        IroncliwError: of the class that belongs to the status and code.
    """
    streamed = (call.stream or call.on_event is not None) and not response.is_error
    # httpx gives header names in lower case
    answer = Answer(
        response.status_code, dict(response.headers), b"" if streamed else response.content
    )
    return check(answer, str(response.url))


def _deadline(timeout: float) -> str:
    """Seconds in plain digits, to the millisecond, within what the server takes."""
    seconds = min(max(timeout, 0.001), LONGEST_DEADLINE_SECONDS)
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _checked_timeout(default: float, given: float | None) -> float:
    if given is None:
        return default
    if not given > 0:
        raise SettingsError(f"timeout is {given!r}; give seconds above 0, or None for the setting")
    return given


def _checked_key(api_key: str) -> str:
    if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        # the key itself must not end up in a log
        raise SettingsError(
            "client.api_key holds a space, a line break or a character beyond ASCII, which no key "
            "has; copy the key again"
        )
    return api_key
