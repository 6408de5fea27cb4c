"""Where calls may go, with whose credentials, and for how long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import google.auth
import pytest
import requests
from google.api_core.exceptions import Forbidden, ServiceUnavailable
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from cluster.gce.errors import GceError
from cluster.gce.session import READ, Patience, Session, attempt, is_test_bed
from cluster.testing.clocks import ManualClock
from ironcliw.errors import SettingsError, UnsupportedError
from ironcliw.setting_sections import CloudSettings

BUSY = GceError("busy", kind="unavailable", code="HTTP_503")


def new_session(endpoint: str | None = None, clock: ManualClock | None = None) -> Session:
    clock = clock or ManualClock()
    cloud = CloudSettings.model_validate({"project": "p", "api_endpoint": endpoint})
    return Session(cloud, clock, clock.sleep)


def answers(*results: object) -> Callable[[float], Any]:
    """A try that raises or returns one after the other."""
    left: Iterator[object] = iter(results)

    def one_try(seconds: float) -> Any:
        result = next(left)
        if isinstance(result, Exception):
            raise result
        return result

    return one_try


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "http://10.77.0.1:8900"],
)
def test_test_bed_is_called_without_credentials(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google.auth, "default", lambda **_: pytest.fail("credentials were read"))
    assert is_test_bed(endpoint)
    client = new_session(endpoint).client("InstancesClient")
    assert isinstance(client.transport._credentials, AnonymousCredentials)


@pytest.mark.parametrize(
    "endpoint",
    [
        None,
        "compute.googleapis.com",
        "https://compute.googleapis.com",
        "https://127.0.0.1:1",
        "10.77.0.1:8900",
        "https://localhost",
    ],
)
def test_every_other_endpoint_is_called_with_the_users_credentials(
    endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = AnonymousCredentials()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(google.auth, "default", lambda **_: (users, "p"))
    assert not is_test_bed(endpoint)
    client = new_session(endpoint).client("InstancesClient")
    assert client.transport._credentials is users
    assert client.transport._host.startswith("https://")


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://compute.googleapis.com",
        "http://10.evil.example",
        "http://127.0.0.1@evil.example",
        "http://192.168.1.1",
        "http://11.0.0.1",
        "http://localhost.evil.example",
    ],
)
def test_plain_http_to_elsewhere_is_refused(endpoint: str) -> None:
    with pytest.raises(SettingsError, match=r"plain HTTP is for a test bed"):
        new_session(endpoint)


@pytest.mark.parametrize("endpoint", ["", "http://", "ftp://127.0.0.1"])
def test_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="no URL of a Compute API"):
        new_session(endpoint)


def test_no_project_no_cloud() -> None:
    with pytest.raises(SettingsError, match=r"cloud\.project is unset"):
        Session(CloudSettings(), ManualClock(), ManualClock().sleep)


def test_absent_credentials_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(**_: object) -> None:
        raise DefaultCredentialsError("none were found")  # type: ignore[no-untyped-call]

    monkeypatch.setattr(google.auth, "default", absent)
    with pytest.raises(GceError, match=r"none were found.*gcloud auth application-default login"):
        new_session().client("InstancesClient")


def test_absent_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def without() -> None:
        raise ImportError("google.cloud.compute_v1")

    monkeypatch.setattr("cluster.gce.session.compute_library", without)
    with pytest.raises(UnsupportedError, match=r"pip install 'ironcliw\[gcp\]'"):
        new_session("http://127.0.0.1:1").client("InstancesClient")


def test_threads_share_one_client() -> None:
    session, clients = new_session("http://127.0.0.1:1"), []
    threads = [
        threading.Thread(target=lambda: clients.append(session.client("InstancesClient")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clients) == 8
    assert len(set(map(id, clients))) == 1


def test_library_does_not_log_requests() -> None:
    logger = logging.getLogger("google.cloud.compute_v1.services.instances.client")
    assert not logger.isEnabledFor(logging.DEBUG)


def test_first_answer_is_taken() -> None:
    assert new_session().repeat(answers(BUSY, BUSY, "answer"), READ) == "answer"


def test_refusal_is_not_repeated() -> None:
    refusal = GceError("no", kind="auth")
    with pytest.raises(GceError, match="no") as raised:
        new_session().repeat(answers(refusal, "answer"), READ)
    assert not raised.value.may_exist


def test_refusal_after_silence_says_that_the_silent_try_may_have_worked() -> None:
    with pytest.raises(GceError, match="taken") as raised:
        new_session().repeat(answers(BUSY, GceError("taken", kind="name")), READ)
    assert raised.value.may_exist


def test_storm_ends_in_time_and_tries_get_less_and_less_of_it() -> None:
    clock, given = ManualClock(), []

    def hang(seconds: float) -> None:
        given.append(seconds)
        clock.advance(seconds)
        raise GceError("no reply", kind="unavailable")

    began = clock()
    with pytest.raises(GceError, match="no reply"):
        new_session(clock=clock).repeat(hang, READ)
    assert clock() - began <= READ.total
    assert given == pytest.approx([5.0, 2.8])


def test_quick_refusals_are_not_hammered() -> None:
    clock, times = ManualClock(), []

    def busy(seconds: float) -> None:
        times.append(clock())
        raise GceError("busy", kind="unavailable")

    with pytest.raises(GceError, match="busy"):
        new_session(clock=clock).repeat(busy, READ)
    assert len(times) == 7
    assert times[-1] - times[0] <= READ.total


def test_patience_is_cut_to_what_is_left() -> None:
    assert READ.within(3) == Patience(3, 5)
    assert READ.within(30) == READ


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ServiceUnavailable("no"), "unavailable"),  # type: ignore[no-untyped-call]
        (Forbidden("no"), "auth"),  # type: ignore[no-untyped-call]
        (requests.exceptions.ReadTimeout("no"), "unavailable"),
        (requests.exceptions.ConnectionError("no"), "unavailable"),
        (TransportError("no"), "unavailable"),  # type: ignore[no-untyped-call]
        (RefreshError("no"), "auth"),  # type: ignore[no-untyped-call]
        (RefreshError("no", retryable=True), "unavailable"),  # type: ignore[no-untyped-call]
    ],
)
def test_what_the_libraries_raise(raised: Exception, kind: str) -> None:
    def fail() -> None:
        raise raised

    with pytest.raises(GceError, match="look failed") as caught:
        attempt("look", fail)
    assert caught.value.kind == kind
    assert caught.value.__cause__ is raised


def test_mistakes_of_our_own_are_not_hidden() -> None:
    def fail() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        attempt("look", fail)
