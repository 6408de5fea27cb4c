"""What is tried again: each kind of error that S3's, GCS's and Python's clients tell."""

from __future__ import annotations

import errno
import http.client
import ssl
from typing import Any

import pytest

from ironcliw import retries
from ironcliw.errors import CheckpointError
from ironcliw.retries import Retry, is_transient, one_line


class WithStatus(Exception):
    """As gcsfs's, aiohttp's, httpx's and botocore's errors carry it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("an error of some library")
        self.__dict__.update(attributes)


class Response:
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


def class_of(module: str, name: str) -> type[Exception]:
    """A stand-in for a class of a library that is not installed, and a subclass of it."""
    base = type(name, (Exception,), {"__module__": f"{module}.exceptions"})
    return type("Special", (base,), {"__module__": "elsewhere"})


def s3(text: str) -> OSError:
    return OSError(f"When completing key 'x' in bucket 'b': AWS Error {text} during PutObject: no")


def gcs(code: str) -> OSError:
    return OSError(f"google::cloud::Status({code}: Retry policy exhausted, with a last message of")


PASSING: list[BaseException] = [
    *(WithStatus(status=status) for status in sorted(retries.STATUSES)),
    *(s3(f"UNKNOWN (HTTP status {status})") for status in sorted(retries.STATUSES)),
    *(s3(name) for name in retries.S3_NAMES),
    *(gcs(code) for code in retries.GCS_CODES),
    *(OSError(number, "text") for number in sorted(retries.ERRNOS)),
    *(class_of(*name)() for name in sorted(retries.CLASSES)),
    WithStatus(code=503),
    WithStatus(status_code=429),
    WithStatus(response=Response(502)),
    WithStatus(response={"ResponseMetadata": {"HTTPStatusCode": 503}}),
    ConnectionResetError("reset"),
    BrokenPipeError("broken"),
    TimeoutError("too long"),
    http.client.RemoteDisconnected("gone"),
    http.client.IncompleteRead(b""),
    ssl.SSLEOFError("cut off"),
]
LASTING: list[BaseException] = [
    *(WithStatus(status=status) for status in (400, 401, 403, 404, 409, 412, 501)),
    *(s3(name) for name in ("ACCESS_DENIED", "NO_SUCH_BUCKET", "UNKNOWN (HTTP status 403)")),
    *(gcs(code) for code in ("PERMISSION_DENIED", "UNAUTHENTICATED", "NOT_FOUND", "DATA_LOSS")),
    OSError(errno.ENOSPC, "full"),
    OSError("no more is known"),
    FileNotFoundError(errno.ENOENT, "absent"),
    PermissionError(errno.EACCES, "denied"),
    WithStatus(response={}),
    WithStatus(code="503 or so"),
    WithStatus(status=0),
    WithStatus(code=70_503),
    ssl.SSLCertVerificationError("not trusted"),
    ValueError("a defect of ours"),
]


def test_of_our_own_errors_the_cause_tells() -> None:
    # their status is that of an answer to a request
    assert not is_transient(CheckpointError("the disk is full"))
    for cause, passes in ((OSError(errno.ENOSPC, "full"), False), (TimeoutError("late"), True)):
        with pytest.raises(CheckpointError) as raised:
            raise CheckpointError("it cannot be written") from cause
        assert is_transient(raised.value) is passes


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_passing(error: BaseException) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_lasting(error: BaseException) -> None:
    assert not is_transient(error)


def test_the_cause_tells_where_the_error_does_not() -> None:
    def outer(cause: BaseException) -> BaseException:
        try:
            raise RuntimeError("could not write") from cause
        except RuntimeError as error:
            return error

    assert is_transient(outer(ConnectionResetError()))
    assert is_transient(outer(outer(WithStatus(status=503))))
    assert not is_transient(outer(WithStatus(status=403)))
    # the error itself is asked first
    failed = PermissionError("denied")
    failed.__context__ = ConnectionResetError()
    assert not is_transient(failed)


def test_a_circle_of_causes_ends() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert not is_transient(one)


class Flaky:
    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_it_waits_longer_each_time(caplog: pytest.LogCaptureFixture) -> None:
    waits: list[float] = []
    retry = Retry(attempts=7, first_seconds=1.0, most_seconds=8.0, sleep=waits.append)
    assert retry.call(Flaky(*[TimeoutError("slow")] * 6), "writing x") == "done"
    for wait, longest in zip(waits, (1, 2, 4, 8, 8, 8), strict=True):
        assert longest / 2 <= wait <= longest
    said = f"writing x failed (attempt 1 of 7), again in {waits[0]:.1f} s: slow"
    assert caplog.records[0].message == said


def test_it_gives_up() -> None:
    flaky = Flaky(*[TimeoutError(str(n)) for n in range(9)])
    with pytest.raises(TimeoutError, match=r"^2$"):
        Retry(attempts=3, sleep=lambda seconds: None).call(flaky, "writing x")
    assert flaky.calls == 3


def test_what_lasts_is_raised_at_once() -> None:
    flaky = Flaky(PermissionError("denied"))
    with pytest.raises(PermissionError, match="denied"):
        Retry(sleep=lambda seconds: pytest.fail("it waited")).call(flaky, "writing x")
    assert flaky.calls == 1


def test_waits_of_workers_differ() -> None:
    waits: list[float] = []
    for _ in range(8):
        Retry(sleep=waits.append).call(Flaky(TimeoutError()), "writing x")
    assert len(set(waits)) > 1


def test_texts_are_one_line() -> None:
    text = "Status(UNAVAILABLE: <?xml?>\n <Error/> error_info={reason=, metadata={retry=}})"
    assert one_line(OSError(text)) == "Status(UNAVAILABLE: <?xml?> <Error/>"
