"""Which errors of a bucket pass by themselves, and how long to wait for it.

Clients tell errors in their own ways. Those written in Python (gcsfs, s3fs, adlfs through fsspec)
raise classes and carry the HTTP status. Arrow, which speaks to S3 and GCS here, raises OSError with
a text: GCS's client puts a canonical status code (UNAVAILABLE) into it, S3's the HTTP status of an
error that it does not know and the error's name in place of one that it knows.
"""

from __future__ import annotations

import errno
import logging
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ironcliw.errors import IroncliwError

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP: time-outs, too many requests, and errors of the server."""
GCS_CODES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "ABORTED")
"""https://cloud.google.com/storage/docs/retry-strategy, as google-cloud-cpp names them."""
S3_NAMES = (
    "INTERNAL_FAILURE",
    "NETWORK_CONNECTION",
    "REQUEST_TIMEOUT",
    "SERVICE_UNAVAILABLE",
    "SLOW_DOWN",
    "THROTTLING",
)
"""What the AWS SDK for C++ calls the statuses above, and a network that failed."""
ERRNOS = frozenset(
    {
        errno.EAGAIN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ETIMEDOUT,
    }
)
CLASSES = frozenset(
    {
        ("aiohttp", "ClientConnectionError"),
        ("aiohttp", "ClientPayloadError"),
        ("botocore", "ConnectionClosedError"),
        ("botocore", "ConnectTimeoutError"),
        ("botocore", "EndpointConnectionError"),
        ("botocore", "ReadTimeoutError"),
        ("google", "TransportError"),
        ("http", "IncompleteRead"),
        ("httpx", "TransportError"),
        ("requests", "ChunkedEncodingError"),
        ("requests", "ConnectionError"),
        ("requests", "Timeout"),
        ("urllib3", "ProtocolError"),
    }
)
"""Package and name, so that none of them has to be installed."""
_PASSING = (ConnectionError, TimeoutError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_LASTING = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError)
_TEXT_STATUS = re.compile(r"HTTP status(?: code:)? (\d{3})\b")
_TEXT_CODE = re.compile(r"google::cloud::Status\(([A-Z_]+):")
_TEXT_NAME = re.compile(r"AWS Error ([A-Z_]+)\b")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed in a while; told by the first cause that is known."""
    verdicts = (_verdict(cause) for cause in _causes(error))
    return next((verdict for verdict in verdicts if verdict is not None), False)


def one_line(error: BaseException) -> str:
    """An error's text without line ends, nor what GCS's client adds for its own developers."""
    return " ".join(str(error).split()).partition(" error_info={")[0]


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential back-off with jitter.

    Attributes:
        attempts: In all; with the defaults the last one is made 8 to 16 s after the first.
        first_seconds: Longest wait after the first failure; it doubles.
        most_seconds: No wait is longer.
        sleep: Waits; another one in tests.
    """

    attempts: int = 6
    first_seconds: float = 0.5
    most_seconds: float = 15.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def call(self, operation: Callable[[], Result], what: str) -> Result:
        """Do something until it succeeds or fails for good.

        Args:
            operation: May be done twice: its answer can be lost after it was carried out.
            what: It does, for the log.

        Raises:
            Exception: what the last attempt raised.
        """
        for attempt in range(1, self.attempts):
            try:
                return operation()
            except Exception as error:  # clients raise classes of their own; re-raised below
                if not is_transient(error):
                    raise
                wait = self._wait(attempt)
                logger.warning(
                    "%s failed (attempt %d of %d), again in %.1f s: %s",
                    what, attempt, self.attempts, wait, one_line(error),
                )  # fmt: skip
                self.sleep(wait)
        return operation()

    def _wait(self, attempt: int) -> float:
        longest = min(self.most_seconds, self.first_seconds * 2.0 ** (attempt - 1))
        # many workers that failed together must not come back together
        return longest * (0.5 + 0.5 * random.random())


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _verdict(error: BaseException) -> bool | None:
    """None where this error alone says nothing."""
    if isinstance(error, IroncliwError):
        # its status is of our answer to a request; what it was made of tells
        return _verdict_of_text(str(error))
    status = _status(error)
    if status is not None:
        return status in STATUSES
    if isinstance(error, _PASSING) or CLASSES & _names(error):
        return True
    if isinstance(error, _LASTING):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in ERRNOS
    return _verdict_of_text(str(error))


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for holder in (error, response):
        for name in ("status", "status_code", "code"):
            value = holder if isinstance(holder, int) else getattr(holder, name, None)
            if isinstance(value, int) and 100 <= value <= 599:
                return int(value)
    return None


def _names(error: BaseException) -> set[tuple[str, str]]:
    return {(cls.__module__.partition(".")[0], cls.__name__) for cls in type(error).__mro__}


def _verdict_of_text(text: str) -> bool | None:
    if found := _TEXT_STATUS.search(text):
        return int(found[1]) in STATUSES
    if found := _TEXT_CODE.search(text):
        return found[1] in GCS_CODES
    if found := _TEXT_NAME.search(text):
        return found[1] in S3_NAMES
    return None
