"""What the Hub's client raises, as errors of ours that say what to do."""

from __future__ import annotations

from ironcliw.errors import (
    AuthenticationError,
    ConflictError,
    IroncliwError,
    OverloadedError,
    PermissionDeniedError,
    RequestError,
    UnavailableError,
)
from ironcliw.retries import one_line

LONGEST_WAIT = 60.0
"""Seconds that are waited at the most where the Hub says that there were too many requests."""


def check_repository(repository: str) -> None:
    """Raise RequestError where a repository cannot be called so."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
        if repository.count("/") != 1:
            raise HFValidationError("the owner is absent")
    except HFValidationError as error:
        raise RequestError(
            f"--hub is {repository!r}, which names no repository ({one_line(error)}); write "
            "OWNER/NAME",
            param="hub",
        ) from error


def translated(error: Exception, where: str, wait: float | None) -> Exception:
    """Our error for one of the client's; one that says nothing of the Hub stays as it is.

    Args:
        error: That the client raised.
        where: The repository and the Hub, for the message.
        wait: Seconds that the Hub asks to wait; None: it does not.
    """
    if isinstance(error, IroncliwError):
        return error
    status, said = _status(error), _said(error)[:300]
    if status == 401 or type(error).__name__ == "LocalTokenNotFoundError":
        return AuthenticationError(
            f"the Hub does not know who publishes {where} ({said}); set HF_TOKEN to a token "
            "that may write, or run `hf auth login`"
        )
    if status in (402, 403):
        return PermissionDeniedError(
            f"the Hub refuses {where} ({said}); see that the owner is right and that the token "
            "may write there"
        )
    if status in (409, 412):
        return ConflictError(f"{where} was made or changed by somebody else ({said})")
    if status == 429:
        return OverloadedError(
            f"the Hub takes no more requests for {where} ({said}); try again later",
            retry_after=wait or LONGEST_WAIT,
        )
    if status is not None and 400 <= status < 500:
        return RequestError(f"the Hub refuses {where}: {said}", param="hub")
    if status is None and not _is_network(error):
        return error
    return UnavailableError(f"the Hub could not be asked for {where} ({said})")


def _said(error: BaseException) -> str:
    """The error's text, and that of what it came from: threads only say which file it was."""
    first = error
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(first) if error is first else f"{one_line(first)} {one_line(error)}"


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of an error or of what caused it: files are sent by threads."""
    while error is not None:
        found = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(found, int):
            return found
        error = error.__cause__
    return None


def asked_to_wait(error: Exception, attempt: int) -> float | None:
    """Seconds that the Hub asks to wait; None: it is no question of time.

    Args:
        error: That the client raised.
        attempt: Counted from 1; where the Hub names no time, it doubles with each.
    """
    if _status(error) != 429:
        return None
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return float(headers.get("retry-after", 2.0**attempt))
    except ValueError:
        return 2.0**attempt


def _is_network(error: BaseException | None) -> bool:
    """Whether the way to the Hub failed, or a file on it."""
    while error is not None:
        package = type(error).__module__.partition(".")[0]
        if package in ("httpx", "httpx2", "httpcore", "hf_xet", "huggingface_hub"):
            return True
        # an upload's thread raises RuntimeError, a malformed or refusing answer ValueError
        if isinstance(error, ConnectionError | TimeoutError | RuntimeError | ValueError):
            return True
        error = error.__cause__
    return False
