"""What went wrong in Compute Engine, in classes that a launcher can act on.

GCE reports an error in three ways: an HTTP status with a JSON body, an operation that ends with an
error after HTTP 200, or no reply at all. All three become one `GceError`. Nothing here is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ironcliw.errors import ClusterError

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud import compute_v1

Kind = Literal[
    "stockout", "quota", "rate", "name", "auth", "missing", "invalid", "unavailable", "other"
]

# By GCE's own word, without case and underscores: operations say QUOTA_EXCEEDED, HTTP bodies
# quotaExceeded. The words are those that SkyPilot and the GitHub runners met in the wild.
_KINDS: dict[str, Kind] = {
    "zoneresourcepoolexhausted": "stockout",
    "zoneresourcepoolexhaustedwithdetails": "stockout",
    "resourcepoolexhausted": "stockout",
    "resourceavailability": "stockout",
    "stockout": "stockout",
    # a Spot machine that was preempted while it was made
    "unsupportedoperation": "stockout",
    "quotaexceeded": "quota",
    "limitexceeded": "quota",
    "ratelimitexceeded": "rate",
    "userratelimitexceeded": "rate",
    "resourceoperationrateexceeded": "rate",
    "concurrentoperationsquotaexceeded": "rate",
    "alreadyexists": "name",
    "resourcealreadyexists": "name",
    # a machine of that name still stops
    "resourcenotready": "name",
    "resourceinusebyanotherresource": "name",
    "autherror": "auth",
    "accessnotconfigured": "auth",
    "forbidden": "auth",
    "insufficientpermissions": "auth",
    "permissiondenied": "auth",
    "permissionserror": "auth",
    "notfound": "missing",
    "resourcenotfound": "missing",
    "invalid": "invalid",
    "badrequest": "invalid",
    "conditionnotmet": "invalid",
    "invalidfieldvalue": "invalid",
    "invalidusage": "invalid",
    "required": "invalid",
    "backenderror": "unavailable",
    "internalerror": "unavailable",
    "serviceunavailable": "unavailable",
}
_KIND_OF_STATUS: dict[int, Kind] = {
    400: "invalid", 401: "auth", 403: "auth", 404: "missing", 409: "name", 412: "invalid",
    429: "rate",
}  # fmt: skip
_NEXT_STEP: dict[Kind, str] = {
    "stockout": "another zone or machine type may have room (cloud.zones, cloud.machine_type)",
    "quota": "ask for more in the console under IAM & Admin > Quotas, or want less",
    "rate": "the API is asked too often; it is left alone for a while",
    "name": "a machine of that name exists or is still being deleted; another name is taken",
    "auth": "run `gcloud auth application-default login` and see that the Compute API is on and "
    "the account may use it",
    "missing": "see that project, zone, machine type, image and network exist (`ironcliw doctor`)",
    "invalid": "correct the setting that the message names",
    "unavailable": "it is tried again",
    "other": "look the code up in the Compute Engine documentation",
}
_ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z]")
# google.api_core begins a message with the method and the URL, which holds nothing for a reader
_METHOD_AND_URL = re.compile(r"^[A-Z]+ https?://\S+: ")


class GceError(ClusterError):
    """Compute Engine refused, failed, or did not answer.

    Args:
        message: What was tried, what GCE said, what to do.
        kind: The class that decides what to do next.
        code: GCE's own word, such as `ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS`.
        zones_available: Zones in which GCE says there is room.
        may_exist: Whether what was asked for may have been made all the same: a reply was lost,
            or the operation was not done in time.
    """

    default_code = "gce_error"
    code: str
    # of the root it is the type in an HTTP body, one for all errors of a class
    kind: Kind  # type: ignore[misc]

    def __init__(
        self,
        message: str,
        *,
        kind: Kind = "other",
        code: str | None = None,
        zones_available: Iterable[str] = (),
        may_exist: bool = False,
        param: str | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.kind = kind
        self.zones_available = tuple(zones_available)
        self.may_exist = may_exist

    def body(self) -> dict[str, dict[str, str | None]]:
        body = super().body()
        body["error"]["type"] = ClusterError.kind
        return body

    def _state(self) -> dict[str, Any]:
        return {
            **super()._state(),
            "kind": self.kind,
            "zones_available": self.zones_available,
            "may_exist": self.may_exist,
        }


def of_operation(action: str, operation: compute_v1.Operation) -> GceError | None:
    """The error that a finished operation ended with; None where it succeeded.

    Args:
        action: What was tried, for the message: "insert of NAME in ZONE".
        operation: As the API returned it.
    """
    errors = list(operation.error.errors)
    status = operation.http_error_status_code
    if not errors and not status:
        return None
    words = [*(error.code for error in errors), *_reasons(errors)]
    kind, code = _kind(words, status)
    message = errors[0].message if errors else operation.http_error_message
    quotas = [
        f"{detail.quota_info.metric_name} is limited to {detail.quota_info.limit:g}"
        for error in errors
        for detail in error.error_details
        if detail.quota_info.metric_name
    ]
    said = "; ".join([message or operation.http_error_message or "no reason given", *quotas])
    hints = (
        detail.error_info.metadatas.get("zonesAvailable", "")
        for error in errors
        for detail in error.error_details
    )
    return _error(action, said, kind, code, _zones(hints))


def of_http(action: str, error: GoogleAPICallError) -> GceError:
    """The error of an HTTP status of 400 and above."""
    entries = [entry for entry in error.errors if isinstance(entry, Mapping)]
    details = [detail for detail in error.details if isinstance(detail, Mapping)]
    words = [
        *(str(entry.get("reason", "")) for entry in entries),
        *(str(detail.get("reason", "")) for detail in details),
    ]
    kind, code = _kind(words, error.code)
    hints = []
    for detail in details:
        # Compute Engine writes metadatas, google.rpc.ErrorInfo metadata
        facts = detail.get("metadatas") or detail.get("metadata") or {}
        hints.append(str(facts.get("zonesAvailable", "")))
    return _error(action, _METHOD_AND_URL.sub("", str(error.message)), kind, code, _zones(hints))


def of_silence(action: str, error: Exception) -> GceError:
    """The error of a request that got no answer, or one that cannot be read."""
    said = f"no usable answer ({type(error).__name__}: {error})"
    return _error(action, said, "unavailable", "NO_REPLY", ())


def of_credentials(action: str, error: Exception) -> GceError:
    """The error of credentials that are absent, expired or revoked."""
    return _error(action, f"credentials cannot be used ({error})", "auth", "NO_CREDENTIALS", ())


def refuses_notice(error: GceError) -> bool:
    """Whether the request was refused for its preemption notice, which not every type may have."""
    text = error.message.lower().replace("_", "").replace(" ", "")
    return error.kind == "invalid" and "preemptionnotice" in text


def _kind(words: Iterable[str], status: int | None) -> tuple[Kind, str]:
    """Class and code, by the first word that is known, else by the HTTP status."""
    words = [word for word in words if word]
    for word in words:
        if kind := _KINDS.get(word.lower().replace("_", "")):
            return kind, word
    code = words[0] if words else f"HTTP_{status}"
    if status is not None and status >= 500:
        return "unavailable", code
    return _KIND_OF_STATUS.get(status or 0, "other"), code


def _reasons(errors: Iterable[compute_v1.Errors]) -> Iterator[str]:
    for error in errors:
        for detail in error.error_details:
            yield detail.error_info.reason


def _zones(hints: Iterable[str]) -> tuple[str, ...]:
    """Zones of comma-separated lists, each once, in GCE's order; anything else is dropped."""
    names = (name.strip() for hint in hints for name in hint.split(","))
    return tuple(dict.fromkeys(name for name in names if _ZONE.fullmatch(name)))


def _error(action: str, said: str, kind: Kind, code: str, zones: tuple[str, ...]) -> GceError:
    message = f"{action} failed: {said.strip().rstrip('.')} ({code}); {_NEXT_STEP[kind]}"
    return GceError(message, kind=kind, code=code, zones_available=zones)
