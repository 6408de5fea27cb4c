"""Refusals of the Compute API, with the JSON bodies that Google sends.

Shapes: https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-vm-creation and the
error model of https://cloud.google.com/apis/design/errors in its older form (`errors[].reason`),
which Compute still uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """The answer to a request is an HTTP error.

    Args:
        status: Of the HTTP answer.
        reason: Google's word for programs, e.g. `notFound`.
        message: Google's text for people.
        extra: Further members of the `error` object.
        domain: Google's name of the group that the reason belongs to.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        extra: Mapping[str, Any] | None = None,
        domain: str = "global",
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.extra = dict(extra or {})
        self.domain = domain

    def body(self) -> dict[str, Any]:
        """The JSON object that a client receives."""
        one = {"message": self.message, "domain": self.domain, "reason": self.reason}
        return {
            "error": {"code": self.status, "message": self.message, "errors": [one], **self.extra}
        }


def not_found(resource: str) -> ApiError:
    """404: no such resource; `resource` is its path from `projects/` on."""
    return ApiError(404, "notFound", f"The resource '{resource}' was not found")


def already_exists(resource: str) -> ApiError:
    """409: the name is taken."""
    return ApiError(409, "alreadyExists", f"The resource '{resource}' already exists")


def invalid(field: str, value: object, rule: str) -> ApiError:
    """400: a field breaks a rule."""
    return ApiError(400, "invalid", f"Invalid value for field '{field}': '{value}'. {rule}")


def stale_fingerprint(what: str) -> ApiError:
    """412: the labels or metadata were changed since the caller read them."""
    message = f"{what} fingerprint either invalid or resource {what.lower()} have changed"
    return ApiError(412, "conditionNotMet", message)


def unauthenticated() -> ApiError:
    """401: no access token, or one that is expired or unknown."""
    message = (
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login "
        "cookie or other valid authentication credential."
    )
    return ApiError(401, "authError", message, extra={"status": "UNAUTHENTICATED"})


def forbidden(permission: str, resource: str) -> ApiError:
    """403: the account is known and may not do it."""
    message = f"Required '{permission}' permission for '{resource}'"
    return ApiError(403, "forbidden", message, extra={"status": "PERMISSION_DENIED"})


def rate_limited() -> ApiError:
    """403: too many requests a minute."""
    message = (
        "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service "
        "'compute.googleapis.com'."
    )
    return ApiError(
        403,
        "rateLimitExceeded",
        message,
        domain="usageLimits",
        extra={"status": "RESOURCE_EXHAUSTED"},
    )


def storm(status: int) -> ApiError:
    """5xx or 429: the service cannot answer at the moment."""
    words = {
        429: ("rateLimitExceeded", "Too many requests."),
        500: ("internalError", "Internal error. Please try again."),
        502: ("badGateway", "Bad gateway."),
    }
    reason, message = words.get(status, ("backendError", "The service is currently unavailable."))
    return ApiError(status, reason, message)
