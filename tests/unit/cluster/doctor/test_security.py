"""Checks of secrets, open ports and names: what can be wrong, each with its next step."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.doctor import probes as doctor_probes
from cluster.doctor.probes import Interface, head_listens, ordered_machines
from cluster.doctor.report import State
from cluster.doctor.security import check_names, check_open_ports, check_secrets
from cluster.gce.secret_manager import read_secret
from cluster.machines import HEAD_LABEL
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from cluster.testing.http_server import HttpServer, Request, Response
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings
from ironcliw.store import Store
from tests.unit.cluster.doctor_machine import (
    ADDRESS,
    HEAD_ID,
    INTERFACES,
    NOW,
    assert_wrong,
    healthy,
    settings_of,
)
from tests.unit.cluster.vm_requests import vm_request

RAYLET = ("raylet", "::", 40_001)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


@pytest.mark.parametrize("check", [check_secrets, check_open_ports, check_names])
def test_without_a_project_there_is_nothing_to_guard(tmp_path: Path, check: Any) -> None:
    found = check(settings_of(tmp_path, cloud={"project": None}), healthy())
    assert (found.state, "cloud.project is unset" in found.found) == (State.NOT_NEEDED, True)


class TestSecrets:
    def test_all_is_well(self, settings: Settings) -> None:
        check = check_secrets(settings, healthy())
        assert check.state is State.OK
        assert "cloud.token_secret, cloud.vpn_secret; read as worker@my-project" in check.found

    def test_without_an_account_none_can_be_read(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cloud={"service_account": None, "token_secret": None})
        check = check_secrets(settings, healthy())
        assert_wrong(check, State.ERROR, "cloud.vpn_secret cannot be read", "set cloud.service_acc")

    def test_a_token_that_many_can_read(self, tmp_path: Path) -> None:
        check = check_secrets(settings_of(tmp_path, cloud={"token_secret": None}), healthy())
        assert_wrong(check, State.WARNING, "in the metadata of every worker", "cloud.token_secret")
        bed = {"token_secret": None, "api_endpoint": "http://127.0.0.1:1"}
        assert check_secrets(settings_of(tmp_path, cloud=bed), healthy()).state is State.OK


class TestTokenSecret:
    def test_the_same_token_is_well(self, settings: Settings) -> None:
        assert check_secrets(settings, healthy(secret=lambda name: "token")).state is State.OK

    def test_one_that_cannot_be_read_is_not_compared(self, settings: Settings) -> None:
        assert check_secrets(settings, healthy(secret=lambda name: None)).state is State.OK

    def test_another_token_lets_no_worker_in(self, settings: Settings) -> None:
        asked: list[str] = []

        def read(name: str) -> str:
            asked.append(name)
            return "the-other"

        check = check_secrets(settings, healthy(secret=read))
        step = f"gcloud secrets versions add ray-token --data-file={settings.state_dir / 'token'}"
        assert_wrong(check, State.WARNING, "is not the latest version of the secret", step)
        assert "the-other" not in check.found + check.next_step
        assert asked == ["ray-token"]

    def test_a_new_head_must_take_it(self, settings: Settings) -> None:
        check = check_secrets(settings, healthy(token=lambda: None))
        step = "gcloud secrets versions access latest --secret=ray-token"
        assert_wrong(check, State.WARNING, "would make another one here", step)

    def test_a_test_bed_has_no_secrets(self, tmp_path: Path) -> None:
        bed = {"api_endpoint": "http://127.0.0.1:1"}
        probes = healthy(secret=lambda name: "the-other")
        assert check_secrets(settings_of(tmp_path, cloud=bed), probes).state is State.OK


class TestSecretManager:
    """The call itself, to a server that answers as Secret Manager does."""

    @pytest.fixture
    def server(self) -> Iterator[HttpServer]:
        def answer(request: Request) -> Response:
            if request.headers.get("authorization") != "Bearer mine":
                return Response(401)
            if request.path != "/v1/projects/p/secrets/ray-token/versions/latest:access":
                return Response(403)
            data = base64.b64encode(b"token\n").decode()
            return Response(200, json.dumps({"payload": {"data": data}}).encode())

        with HttpServer(answer) as server:
            yield server

    def read(self, server: HttpServer, name: str, bearer: str | None) -> str | None:
        return read_secret("p", name, url=server.url + "/v1", bearer=lambda: bearer)

    def test_it_is_read(self, server: HttpServer) -> None:
        assert self.read(server, "ray-token", "mine") == "token"

    @pytest.mark.parametrize(
        ("name", "bearer"), [("other", "mine"), ("ray-token", "his"), ("ray-token", None)]
    )
    def test_what_may_not_be_read_is_none(
        self, server: HttpServer, name: str, bearer: str | None
    ) -> None:
        assert self.read(server, name, bearer) is None

    def test_nobody_there_is_none(self) -> None:
        assert read_secret("p", "s", url="http://127.0.0.1:1", bearer=lambda: "mine") is None


class TestOpenPorts:
    def check(self, settings: Settings, *listening: tuple[str, str, int], **changes: Any) -> Any:
        return check_open_ports(settings, healthy(listening=lambda: list(listening), **changes))

    def test_they_are_looked_for_where_a_head_runs(self, settings: Settings) -> None:
        assert check_open_ports(settings, healthy()).state is State.NOT_NEEDED

    def test_on_loopback_nobody_comes_in(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cluster={"node_ip": "127.0.0.1"})
        assert self.check(settings, RAYLET).state is State.OK

    @pytest.mark.parametrize("everywhere", ["::", "0.0.0.0"])
    def test_what_the_home_network_reaches_is_told(
        self, settings: Settings, everywhere: str
    ) -> None:
        listening = [("gcs_server", everywhere, 6380), ("raylet", ADDRESS, 1), ("x", "::1", 2)]
        check = self.check(settings, *listening)
        assert_wrong(check, State.WARNING, "6380 (gcs_server) can be reached at 192.168.1.7", "pf")
        assert "raylet" not in check.found

    def test_many_are_counted(self, settings: Settings) -> None:
        check = self.check(settings, *(("ray::IDLE", "::", port) for port in range(1, 8)))
        assert "4 (ray::IDLE) and 3 more can be reached" in check.found

    def test_a_machine_of_the_vpn_alone_is_well(self, settings: Settings) -> None:
        alone = {
            "lo0": INTERFACES["lo0"],
            "utun4": INTERFACES["utun4"],
            "en0": Interface(("192.168.1.7",), False, 1500),
            "en1": Interface(("fe80::1",), True, 1500),
        }
        assert self.check(settings, RAYLET, interfaces=lambda: alone).state is State.OK

    def test_a_real_listener_is_found(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import psutil

        assert head_listens(settings) is None
        record = SimpleNamespace(session="s")
        monkeypatch.setattr(doctor_probes, "running_head", lambda settings: record)
        monkeypatch.setattr(doctor_probes, "tagged_processes", lambda tag: [psutil.Process()])
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            listening = head_listens(settings)
        assert listening is not None
        assert ("127.0.0.1", port) in [one[1:] for one in listening]


class TestNames:
    def cloud(self, *names: str, **heads: str) -> Any:
        """Machines without a head's label, and `heads`, whose label is given."""
        machines = [SimpleNamespace(name=name, labels={}) for name in names]
        machines += [
            SimpleNamespace(name=name, labels={HEAD_LABEL: head}) for name, head in heads.items()
        ]
        return lambda: SimpleNamespace(list_vms=lambda cluster: machines)

    def test_all_were_ordered_here(self, settings: Settings) -> None:
        probes = healthy(ordered=lambda: frozenset({"a", "b"}), compute=self.cloud("a"))
        check = check_names(settings, probes)
        assert (check.state, check.found[:24]) == (State.OK, "1 machines carry 'ironcl")

    def test_a_machine_of_another_head(self, settings: Settings) -> None:
        probes = healthy(ordered=lambda: frozenset({"a"}), compute=self.cloud("a", "other-1"))
        check = check_names(settings, probes)
        step = "cloud.cluster_name of its own"
        found = "other-1 (it says of no head that it ordered it) carry the name 'ironcliw'"
        assert_wrong(check, State.WARNING, found, step)

    def test_a_head_knows_its_machines_by_its_id(self, settings: Settings) -> None:
        compute = self.cloud("old", ours=HEAD_ID, theirs="89abcdef")
        # the ledger does not vouch for a machine that says whose it is
        probes = healthy(ordered=lambda: frozenset({"old", "theirs"}), compute=compute)
        check = check_names(settings, probes)
        theirs = "theirs (it belongs to the head 89abcdef) carry the name 'ironcliw'"
        assert_wrong(check, State.WARNING, theirs, "cloud.cluster_name of its own")
        assert "ours" not in check.found.partition(" carry")[0]

    def test_a_head_that_never_ran_is_told_too(self, settings: Settings) -> None:
        probes = healthy(head_id=lambda: None, compute=self.cloud(theirs="89abcdef"))
        assert check_names(settings, probes).state is State.WARNING

    def test_a_cloud_that_does_not_answer(self, settings: Settings) -> None:
        def refuse(cluster: str) -> None:
            raise ClusterError("no answer")

        probes = healthy(
            ordered=lambda: frozenset(), compute=lambda: SimpleNamespace(list_vms=refuse)
        )
        check = check_names(settings, probes)
        assert_wrong(check, State.ERROR, "no answer", "the other checks of the cloud")

    def test_the_ledger_says_what_was_ordered(self, settings: Settings) -> None:
        assert ordered_machines(settings) is None
        with Store(settings.store_url) as store:
            store.migrate()
            prices = PriceTable.of(settings.budget)
            ledger = Ledger(store, prices, settings.budget, lambda: NOW)
            ledger.observe([])
            assert ledger.reserve(vm_request(name="ours")).granted
        assert ordered_machines(settings) == {"ours"}
