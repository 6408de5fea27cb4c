"""What GCE says, in each of the three ways it says it, and the class that is made of it."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import requests
from google.api_core.exceptions import from_http_response
from google.cloud import compute_v1

from cluster.gce.errors import (
    GceError,
    Kind,
    of_credentials,
    of_http,
    of_operation,
    of_silence,
    refuses_notice,
)
from ironcliw.errors import ClusterError

ACTION = "insert of ironcliw-0a1b2c3d in us-central1-a"
URL = "https://compute.googleapis.com/compute/v1/projects/p/zones/z/instances?requestId=1"


def of_reply(response: requests.Response) -> GceError:
    return of_http(ACTION, from_http_response(response))  # type: ignore[no-untyped-call]


def operation(status: int | None = None, **error: Any) -> compute_v1.Operation:
    """An operation that is done, as the API's JSON has it."""
    body: dict[str, Any] = {"name": "operation-1", "status": "DONE"}
    if error:
        body["error"] = {"errors": [error]}
    if status:
        body |= {"httpErrorStatusCode": status, "httpErrorMessage": "NOT OK"}
    read: compute_v1.Operation = compute_v1.Operation.from_json(json.dumps(body))
    return read


def http(status: int, reason: str = "", message: str = "No.", **more: Any) -> GceError:
    """The error of an HTTP reply."""
    response = requests.Response()
    response.status_code = status
    response.request = requests.Request("POST", URL).prepare()
    error = {"code": status, "message": message, "errors": [], **more}
    if reason:
        error["errors"] = [{"reason": reason, "message": message, "domain": "global"}]
    response._content = json.dumps({"error": error}).encode()
    return of_reply(response)


def operation_error(status: int | None = None, **error: Any) -> GceError:
    found = of_operation(ACTION, operation(status, **error))
    assert found is not None
    return found


def test_operation_that_succeeded_has_no_error() -> None:
    assert of_operation(ACTION, operation()) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", "stockout"),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "stockout"),
        ("UNSUPPORTED_OPERATION", "stockout"),
        ("QUOTA_EXCEEDED", "quota"),
        ("RESOURCE_OPERATION_RATE_EXCEEDED", "rate"),
        ("RESOURCE_NOT_READY", "name"),
        ("RESOURCE_ALREADY_EXISTS", "name"),
        ("PERMISSIONS_ERROR", "auth"),
        ("RESOURCE_NOT_FOUND", "missing"),
        ("INVALID_FIELD_VALUE", "invalid"),
        ("INTERNAL_ERROR", "unavailable"),
        ("SOMETHING_NEW", "other"),
    ],
)
def test_class_of_an_operations_code(code: str, kind: Kind) -> None:
    error = operation_error(code=code, message="No.")
    assert (error.kind, error.code, error.may_exist) == (kind, code, False)


def test_unknown_code_is_classed_by_its_http_status() -> None:
    assert operation_error(503, code="SOMETHING_NEW", message="No.").kind == "unavailable"
    assert operation_error(403, code="SOMETHING_NEW", message="No.").kind == "auth"


def test_operation_with_a_status_only_is_an_error_too() -> None:
    error = operation_error(503)
    assert (error.kind, error.code) == ("unavailable", "HTTP_503")
    assert "NOT OK" in error.message


def test_stockout_by_its_reason_names_zones_with_room() -> None:
    error = operation_error(
        503,
        code="SOMETHING_NEW",
        message="The zone does not have enough resources.",
        errorDetails=[
            {
                "errorInfo": {
                    "reason": "resource_availability",
                    "metadatas": {"zonesAvailable": "us-central1-c, us-central1-f,,us-central1-c"},
                }
            }
        ],
    )
    assert error.kind == "stockout"
    assert error.zones_available == ("us-central1-c", "us-central1-f")


def test_words_that_are_no_zones_are_dropped() -> None:
    details = [{"errorInfo": {"metadatas": {"zonesAvailable": "none; rm -rf, us-central1"}}}]
    error = operation_error(code="STOCKOUT", message="No.", errorDetails=details)
    assert error.zones_available == ()


def test_quota_names_metric_limit_and_next_step() -> None:
    details = [{"quotaInfo": {"metricName": "PREEMPTIBLE_CPUS", "limit": 8}}]
    error = operation_error(code="QUOTA_EXCEEDED", message="Quota.", errorDetails=details)
    assert error.message == (
        f"{ACTION} failed: Quota.; PREEMPTIBLE_CPUS is limited to 8 (QUOTA_EXCEEDED); "
        "ask for more in the console under IAM & Admin > Quotas, or want less"
    )


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "badRequest", "invalid"),
        (400, "", "invalid"),
        (401, "authError", "auth"),
        (403, "forbidden", "auth"),
        (403, "quotaExceeded", "quota"),
        (403, "rateLimitExceeded", "rate"),
        (404, "notFound", "missing"),
        (409, "alreadyExists", "name"),
        (412, "conditionNotMet", "invalid"),
        (429, "", "rate"),
        (500, "", "unavailable"),
        (503, "backendError", "unavailable"),
        (418, "", "other"),
    ],
)
def test_class_of_an_http_error(status: int, reason: str, kind: Kind) -> None:
    error = http(status, reason)
    assert (error.kind, error.code) == (kind, reason or f"HTTP_{status}")


@pytest.mark.parametrize("key", ["metadata", "metadatas"])
def test_http_error_may_hold_the_reason_in_its_details(key: str) -> None:
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "ZONE_RESOURCE_POOL_EXHAUSTED",
        key: {"zonesAvailable": "us-central1-b"},
    }
    error = http(503, details=[detail])
    assert (error.kind, error.zones_available) == ("stockout", ("us-central1-b",))


def test_message_holds_what_gce_said_and_no_url() -> None:
    message = http(403, "forbidden", "Required permission: compute.instances.create").message
    assert message.startswith(f"{ACTION} failed: Required permission: compute.instances.create")
    assert "https://" not in message
    assert "gcloud auth application-default login" in message


def test_body_that_is_no_json() -> None:
    response = requests.Response()
    response.status_code = 502
    response.request = requests.Request("GET", URL).prepare()
    response._content = b"<html>Bad gateway</html>"
    assert of_reply(response).kind == "unavailable"


def test_silence_is_unavailable_and_bad_credentials_are_not() -> None:
    assert of_silence(ACTION, TimeoutError("read timed out")).kind == "unavailable"
    error = of_credentials(ACTION, RuntimeError("expired"))
    assert error.kind == "auth"
    assert "expired" in error.message


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        ("Invalid value for field 'resource.scheduling.preemptionNoticeDuration'", True),
        ('Unknown name "preemption_notice_duration": Cannot find field.', True),
        ("Invalid value for field 'resource.machineType'", False),
    ],
)
def test_refusal_of_the_notice_is_told_from_other_bad_requests(message: str, refused: bool) -> None:
    assert refuses_notice(http(400, "invalid", message)) is refused


def test_refusal_of_the_notice_needs_a_bad_request() -> None:
    assert not refuses_notice(http(503, "", "preemptionNoticeDuration"))


def test_error_survives_a_journey_between_processes() -> None:
    sent = GceError(
        "No.", kind="stockout", code="STOCKOUT", zones_available=["us-central1-c"], may_exist=True
    )
    got = pickle.loads(pickle.dumps(sent))
    assert vars(got) == vars(sent)
    assert isinstance(got, ClusterError)


def test_http_body_keeps_the_type_of_the_tree() -> None:
    error = GceError("No.", kind="stockout", code="STOCKOUT")
    assert error.body()["error"] == {
        "message": "No.",
        "type": "server_error",
        "param": None,
        "code": "STOCKOUT",
    }
