"""The metadata server of one VM, asked by plain HTTP and by Google's own library."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import google.auth.compute_engine._metadata as google_metadata
import google.auth.transport.requests
import httpx
import pytest

from cluster.testing.fake_metadata import TOKEN, FakeMetadata, metadata_of

ZONE = "us-central1-a"
PREEMPTED = "instance/preempted"


@pytest.fixture
def server(cloud: Any, body: Callable[..., dict[str, Any]]) -> Iterator[FakeMetadata]:
    resource = body(
        metadata={
            "items": [{"key": "startup-script", "value": "echo"}, {"key": "b-c", "value": ""}]
        },
        networkInterfaces=[{"network": "global/networks/default", "accessConfigs": [{}]}],
        serviceAccounts=[{"email": "worker@test-project.iam.gserviceaccount.com"}],
    )
    cloud.insert(resource)
    instance = cloud.world.named("vm-1")
    with FakeMetadata(metadata_of(instance, cloud.world.now)) as running:
        yield running


@pytest.fixture
def client(server: FakeMetadata) -> Iterator[httpx.Client]:
    headers = {"Metadata-Flavor": "Google"}
    with httpx.Client(base_url=server.url + "/", headers=headers, trust_env=False) as client:
        yield client


class TestRules:
    def test_nothing_without_the_header(self, server: FakeMetadata) -> None:
        for headers in ({}, {"Metadata-Flavor": "Azure"}):
            answer = httpx.get(f"{server.url}/instance/name", headers=headers, trust_env=False)
            assert answer.status_code == 403
            assert "Metadata-Flavor" in answer.text

    def test_nothing_through_a_proxy(self, client: httpx.Client) -> None:
        answer = client.get("instance/name", headers={"X-Forwarded-For": "10.0.0.1"})
        assert answer.status_code == 403

    def test_a_value(self, client: httpx.Client) -> None:
        answer = client.get("instance/name")
        assert (answer.status_code, answer.text) == (200, "vm-1")
        assert answer.headers["Metadata-Flavor"] == "Google"
        assert len(answer.headers["ETag"]) == 16

    @pytest.mark.parametrize("path", ["instance/nothing", "instance/attributes/x", "other/"])
    def test_what_is_not_there(self, client: httpx.Client, path: str) -> None:
        assert client.get(path).status_code == 404

    def test_an_outage(self, client: httpx.Client, server: FakeMetadata) -> None:
        with server.failing(503):
            assert client.get("instance/name").status_code == 503
        assert client.get("instance/name").status_code == 200


class TestContent:
    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("instance/zone", f"projects/123456789012/zones/{ZONE}"),
            ("instance/preempted", "FALSE"),
            ("instance/scheduling/preemptible", "TRUE"),
            ("instance/scheduling/automatic-restart", "FALSE"),
            ("instance/network-interfaces/0/ip", "10.128.0.2"),
            ("instance/network-interfaces/0/access-configs/0/external-ip", "203.0.113.1"),
            ("instance/attributes/startup-script", "echo"),
            ("instance/attributes/b-c", ""),
            ("project/project-id", "test-project"),
        ],
    )
    def test_values(self, client: httpx.Client, path: str, value: str) -> None:
        answer = client.get(path)
        assert (answer.status_code, answer.text) == (200, value)

    def test_folders_are_listed(self, client: httpx.Client) -> None:
        assert client.get("instance/attributes").status_code == 301
        answer = client.get("instance/attributes", follow_redirects=True)
        assert answer.text == "b-c\nstartup-script\n"
        assert "attributes/\n" in client.get("instance/").text

    def test_recursive_is_json(self, client: httpx.Client) -> None:
        found = client.get("instance/?recursive=true").json()
        assert found["attributes"] == {"startup-script": "echo", "b-c": ""}
        assert found["networkInterfaces"][0]["accessConfigs"][0]["externalIp"] == "203.0.113.1"
        attributes = client.get("instance/attributes/?recursive=true").json()
        assert attributes == found["attributes"]

    def test_googles_library_gets_a_token(self, server: FakeMetadata) -> None:
        get: Any = google_metadata.get
        request = google.auth.transport.requests.Request()
        account = get(
            request, "instance/service-accounts/default/", root=server.url + "/", recursive=True
        )
        assert account["email"] == "worker@test-project.iam.gserviceaccount.com"
        assert account["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]
        token = get(request, "instance/service-accounts/default/token", root=server.url + "/")
        grant = token if isinstance(token, dict) else json.loads(token)
        assert (grant["access_token"], grant["token_type"]) == (TOKEN, "Bearer")


class TestWaiting:
    def ask(self, client: httpx.Client, **query: Any) -> httpx.Response:
        return client.get(PREEMPTED, params={"wait_for_change": "true", **query}, timeout=20)

    def test_a_change_ends_it(self, client: httpx.Client, server: FakeMetadata) -> None:
        first = client.get(PREEMPTED)
        answers: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: answers.append(
                self.ask(client, last_etag=first.headers["ETag"], timeout_sec=15)
            )
        )
        thread.start()
        while len(server.requests) < 2:
            time.sleep(0.005)
        server.set_attribute("other", "does not matter")
        assert not answers
        server.preempt()
        thread.join(60)
        assert answers[0].text == "TRUE"
        assert answers[0].headers["ETag"] != first.headers["ETag"]

    def test_what_has_changed_already_is_told_at_once(
        self, client: httpx.Client, server: FakeMetadata
    ) -> None:
        etag = client.get(PREEMPTED).headers["ETag"]
        server.preempt()
        assert self.ask(client, last_etag=etag, timeout_sec=15).text == "TRUE"
        assert self.ask(client, last_etag="0", timeout_sec=15).text == "TRUE"

    def test_its_time_ends_it(self, client: httpx.Client) -> None:
        begin = time.monotonic()
        assert self.ask(client, timeout_sec=0.2).text == "FALSE"
        assert 0.15 < time.monotonic() - begin < 10

    def test_attributes_change_and_go(self, client: httpx.Client, server: FakeMetadata) -> None:
        server.set_attribute("b-c", "2")
        assert client.get("instance/attributes/b-c").text == "2"
        server.set_attribute("b-c", None)
        assert client.get("instance/attributes/b-c").status_code == 404

    def test_closing_ends_whoever_waits(self) -> None:
        server = FakeMetadata()
        with server:
            thread = threading.Thread(target=self._wait_for_ever, args=(server,))
            thread.start()
            while not server.requests:
                time.sleep(0.005)
        thread.join(60)
        assert not thread.is_alive()

    def _wait_for_ever(self, server: FakeMetadata) -> None:
        # the connection may end before the answer; either is an end
        with (
            httpx.Client(headers={"Metadata-Flavor": "Google"}, trust_env=False) as client,
            contextlib.suppress(httpx.HTTPError),
        ):
            client.get(f"{server.url}/{PREEMPTED}?wait_for_change=true", timeout=600)
