"""Checks of the machine, of the VPN and the addresses: each thing that can be wrong, told so."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config import CLUSTER_FILE, write_cluster_file
from cluster.doctor.checks import (
    check_cluster_file,
    check_disk,
    check_keep_warm,
    check_machine,
    check_macos,
    check_ports,
    check_token,
    check_versions,
)
from cluster.doctor.network import check_address, check_vpn, check_workers
from cluster.doctor.probes import Interface, Probes, real_probes
from cluster.doctor.report import Check, State, error, ok
from cluster.environment import GIBIBYTE
from cluster.machines import HEAD_LABEL
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings
from tests.unit.cluster.doctor_machine import (
    ADDRESS,
    HEAD_ID,
    INTERFACES,
    MAC,
    NOW,
    TAILSCALE,
    assert_wrong,
    healthy,
    programs,
    settings_of,
)

Look = Callable[[Settings, Probes], Check]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


LOCAL: tuple[Look, ...] = (
    check_machine,
    check_versions,
    check_ports,
    check_disk,
    check_token,
    check_macos,
    check_vpn,
    check_address,
)
WITHOUT_PROJECT: tuple[Look, ...] = (
    check_macos, check_vpn, check_address, check_workers, check_keep_warm,
)  # fmt: skip


def test_a_step_belongs_to_what_is_wrong() -> None:
    with pytest.raises(AssertionError, match="belongs to what is wrong"):
        error("x", "found", "")
    with pytest.raises(AssertionError, match="belongs to what is wrong"):
        Check("x", State.OK, "found", "do it")
    assert ok("x", "found").next_step == ""


@pytest.mark.parametrize("check", LOCAL)
def test_on_a_healthy_mac_all_is_well(settings: Settings, check: Look) -> None:
    assert check(settings, healthy()).state is State.OK


@pytest.mark.parametrize("check", WITHOUT_PROJECT)
def test_without_a_project_nothing_of_the_cluster_is_needed(tmp_path: Path, check: Look) -> None:
    settings = settings_of(tmp_path, cloud={"project": None, "keep_warm": ["daily 1:00-2:00"]})
    found = check(settings, healthy())
    assert (found.state, "cloud.project is unset" in found.found) == (State.NOT_NEEDED, True)


class TestMachine:
    def test_it_says_what_the_machine_is_for(self, settings: Settings) -> None:
        found = check_machine(settings, healthy()).found
        assert found.startswith("apple-silicon-mac (Apple M1), 8 cores, 16.0 GiB; mps: Apple M1")
        assert "use: inference-only" in found

    def test_ray_is_absent_or_another(self, settings: Settings) -> None:
        check = check_versions(settings, healthy(installed=lambda name: None))
        assert_wrong(check, State.ERROR, "not installed", "pip install 'ironcliw[local]'")
        check = check_versions(settings, healthy(installed=lambda name: "2.59.1"))
        assert_wrong(check, State.ERROR, "2.59.1; the project needs 2.60.0", "ray==2.60.0")
        unpinned = healthy(installed=lambda name: "2.61.0", required=lambda name: None)
        assert check_versions(settings, unpinned).found == "Python 3.11.7, Ray 2.61.0"

    @pytest.mark.parametrize(
        ("gibibytes", "state"),
        [(10, State.OK), (9.9, State.WARNING), (2, State.WARNING), (1.9, State.ERROR)],
    )
    def test_the_fullest_disk_counts(
        self, settings: Settings, gibibytes: float, state: State
    ) -> None:
        def free(path: Path) -> int:
            return int((gibibytes if path == settings.ray_temp_dir else 500) * GIBIBYTE)

        check = check_disk(settings, healthy(free_bytes=free))
        assert check.state is state
        assert check.found == f"{gibibytes:.1f} GiB free at {settings.ray_temp_dir}"

    def test_a_token_that_others_can_read(self, settings: Settings) -> None:
        check = check_token(settings, healthy(mode=lambda path: 0o640))
        path = settings.state_dir / "token"
        assert_wrong(check, State.ERROR, "has mode 0640", f"chmod 600 {path}")
        assert check_token(settings, healthy(mode=lambda path: None)).state is State.OK

    def test_the_cluster_file(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert check_cluster_file(settings, healthy()).state is State.NOT_NEEDED
        write_cluster_file(settings, Path(CLUSTER_FILE))
        assert check_cluster_file(settings, healthy()).state is State.OK
        text = Path(CLUSTER_FILE).read_text(encoding="utf-8")
        Path(CLUSTER_FILE).write_text(text.replace("max_run_hours", "max_run_ours"), "utf-8")
        check = check_cluster_file(settings, healthy())
        step = "correct ray_cluster.yaml, or render it anew"
        assert_wrong(check, State.ERROR, "did you mean 'max_run_hours'", step)
        write_cluster_file(settings, Path(CLUSTER_FILE))
        other = settings_of(tmp_path, cloud={"max_workers": 7})
        check = check_cluster_file(other, healthy())
        assert_wrong(check, State.WARNING, "'max_workers: 7'", "ironcliw cluster render")
        wrong = settings_of(tmp_path, cloud={"machine_type": "x"})
        check = check_cluster_file(wrong, healthy())
        assert_wrong(check, State.ERROR, "setting cloud.machine_type", "correct the setting")

    def test_windows_of_warmth(self, tmp_path: Path) -> None:
        def check(*windows: str) -> Check:
            return check_keep_warm(settings_of(tmp_path, cloud={"keep_warm": windows}), healthy())

        assert check().state is State.NOT_NEEDED
        assert check("mon-fri 9:00-18:00").state is State.OK
        assert_wrong(check("mon 9-18"), State.ERROR, "'mon 9-18'", "write a window as")


class TestPorts:
    def test_one_that_is_taken_names_its_holder(self, settings: Settings) -> None:
        def listener(host: str, port: int) -> str | None:
            return "postgres (pid 7)" if (host, port) == (ADDRESS, 6380) else None

        check = check_ports(settings, healthy(listener=listener))
        assert_wrong(check, State.ERROR, "6380 (cluster.gcs_port) by postgres (pid 7)", "end what")

    def test_an_address_that_is_not_here_is_no_taken_port(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cluster={"node_ip": "192.0.2.1"})
        probes = healthy(listener=real_probes(settings).listener)
        check = check_ports(settings, probes)
        found = "no interface of this machine has cluster.node_ip=192.0.2.1"
        assert_wrong(check, State.ERROR, found, "start the VPN or correct it")

    def test_a_port_that_is_not_for_this_user(self, settings: Settings) -> None:
        def listener(host: str, port: int) -> str | None:
            raise PermissionError(errno.EACCES, "Permission denied")

        check = check_ports(settings, healthy(listener=listener))
        found = "port 8000 (serve.port) cannot be had at 127.0.0.1: Permission denied"
        assert_wrong(check, State.ERROR, found, "choose another port")

    def test_our_own_head_may_hold_them(self, settings: Settings) -> None:
        probes = healthy(head_runs=lambda: True, listener=lambda host, port: "raylet")
        assert check_ports(settings, probes).state is State.OK

    @pytest.mark.parametrize(
        "cluster", [{"gcs_port": 8000}, {"agent_port": 8265}, {"metrics_port": 20_500}]
    )
    def test_clashes_are_told(self, tmp_path: Path, cluster: dict[str, Any]) -> None:
        check = check_ports(settings_of(tmp_path, cluster=cluster), healthy())
        [(name, port)] = cluster.items()
        assert_wrong(check, State.ERROR, f"cluster.{name} is {port}", "its own port")


class TestMac:
    def test_another_system_needs_none_of_it(self, settings: Settings) -> None:
        linux = dataclasses.replace(MAC, system="Linux")
        check = check_macos(settings, healthy(environment=lambda: linux))
        assert (check.state, check.found) == (State.NOT_NEEDED, "this is Linux")

    def test_a_loopback_head_stays_alone(self, tmp_path: Path) -> None:
        check = check_macos(settings_of(tmp_path, cluster={"node_ip": "127.0.0.1"}), healthy())
        assert_wrong(check, State.ERROR, "stays alone", "set cluster.node_ip")

    def test_drivers_need_the_switch_too(self, settings: Settings) -> None:
        check = check_macos(settings, healthy(variable=lambda name: None))
        step = "export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1"
        assert_wrong(check, State.WARNING, "drivers started here", step)

    @pytest.mark.parametrize("output", [programs(awake=False), lambda *words: None])
    def test_it_must_stay_awake(self, settings: Settings, output: Any) -> None:
        check = check_macos(settings, healthy(output=output))
        assert_wrong(check, State.WARNING, "keeps this Mac awake", "caffeinate -dis")


class TestVpn:
    def test_a_missing_program(self, tmp_path: Path) -> None:
        nothing = healthy(program=lambda name: None)
        for vpn, step in (("tailscale", "tailscale up"), ("wireguard", "wg-quick up")):
            check = check_vpn(settings_of(tmp_path, cloud={"vpn": vpn}), nothing)
            assert_wrong(check, State.ERROR, f"cloud.vpn is {vpn}, which is not installed", step)

    def test_workers_need_a_key(self, tmp_path: Path) -> None:
        check = check_vpn(settings_of(tmp_path, cloud={"vpn_secret": None}), healthy())
        assert_wrong(check, State.ERROR, "cloud.vpn_secret is unset", "ephemeral, tagged auth key")

    @pytest.mark.parametrize(
        ("status", "state", "found", "step"),
        [
            ({"BackendState": "NeedsLogin"}, State.ERROR, "is NeedsLogin", "tailscale up"),
            ({}, State.ERROR, "is not running", "tailscale up"),
            ("no JSON", State.ERROR, "is not running", "tailscale up"),
            ("[1]", State.ERROR, "is not running", "tailscale up"),
            (
                {**TAILSCALE, "TUN": False},
                State.ERROR,
                "userspace mode",
                "start tailscaled without",
            ),
            (
                {**TAILSCALE, "TailscaleIPs": ["100.64.0.9"]},
                State.WARNING,
                f"100.64.0.9; cluster.node_ip is {ADDRESS}",
                "set cluster.node_ip = '100.64.0.9'",
            ),
        ],
    )
    def test_tailscale(
        self, settings: Settings, status: object, state: State, found: str, step: str
    ) -> None:
        assert_wrong(check_vpn(settings, healthy(output=programs(status))), state, found, step)

    def test_wireguard(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cloud={"vpn": "wireguard", "max_workers": 1})
        one = check_vpn(settings, healthy())
        assert_wrong(one, State.WARNING, "WireGuard (utun4) works for one worker", "'tailscale'")
        two = settings_of(tmp_path, cloud={"vpn": "wireguard", "max_workers": 2})
        step = "set cloud.max_workers = 1"
        assert_wrong(check_vpn(two, healthy()), State.WARNING, "for 2 workers: one key", step)
        down = {"wg0": Interface((ADDRESS,), False, 1420), "wg1": Interface((), True, 1420)}
        check = check_vpn(settings, healthy(interfaces=lambda: down))
        assert_wrong(check, State.ERROR, "no WireGuard interface is up", "wg-quick up")

    def test_one_network_needs_none(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cloud={"vpn": "none"})
        assert check_vpn(settings, healthy()).state is State.NOT_NEEDED


class TestAddress:
    def test_loopback_is_for_a_test_bed(self, tmp_path: Path) -> None:
        cluster = {"node_ip": "127.0.0.1"}
        check = check_address(settings_of(tmp_path, cluster=cluster), healthy())
        assert_wrong(check, State.ERROR, "no other machine can reach", f"node_ip = '{ADDRESS}'")
        bed = {"api_endpoint": "http://127.0.0.1:1"}
        check = check_address(settings_of(tmp_path, cluster=cluster, cloud=bed), healthy())
        assert check.state is State.OK

    @pytest.mark.parametrize("endpoint", ["https://compute.googleapis.com", "http://a.example"])
    def test_not_every_endpoint_is_a_test_bed(self, tmp_path: Path, endpoint: str) -> None:
        cloud = {"api_endpoint": endpoint}
        settings = settings_of(tmp_path, cluster={"node_ip": "127.0.0.1"}, cloud=cloud)
        assert check_address(settings, healthy()).state is State.ERROR
        settings = settings_of(tmp_path, cloud={**cloud, "vpn_secret": None})
        assert check_vpn(settings, healthy()).state is State.ERROR

    def test_a_test_bed_has_no_tunnel(self, tmp_path: Path) -> None:
        """A head in a namespace: its address is on an interface whose packets are large."""
        settings = settings_of(tmp_path, cloud={"api_endpoint": "http://10.77.0.1:1"})
        large = {"lo": Interface((ADDRESS,), True, 65536)}
        assert check_address(settings, healthy(interfaces=lambda: large)).state is State.OK

    def test_nobody_has_it(self, settings: Settings) -> None:
        only = {"en0": INTERFACES["en0"]}
        check = check_address(settings, healthy(interfaces=lambda: only))
        assert_wrong(
            check,
            State.ERROR,
            f"no interface of this machine has cluster.node_ip, {ADDRESS}",
            "start the VPN",
        )
        silent = healthy(interfaces=lambda: only, program=lambda name: None)
        assert "this machine's address in the network" in check_address(settings, silent).next_step

    def test_the_interface_is_down(self, settings: Settings) -> None:
        down = {"utun4": dataclasses.replace(INTERFACES["utun4"], is_up=False)}
        check = check_address(settings, healthy(interfaces=lambda: down))
        assert_wrong(check, State.ERROR, "utun4, which has 100.64.0.1, is down", "start the VPN")

    def test_an_address_that_leads_nowhere(self, settings: Settings) -> None:
        check = check_address(settings, healthy(reaches_itself=lambda address: "timed out"))
        assert_wrong(check, State.ERROR, "to its own 100.64.0.1 (timed out)", "in kernel mode")

    @pytest.mark.parametrize(
        ("mtu", "state"),
        [(0, "ok"), (1280, "ok"), (1420, "ok"), (1421, "warning"), (1279, "warning")],
    )
    def test_packets_must_fit_the_tunnel(self, settings: Settings, mtu: int, state: str) -> None:
        tunnel = {"utun4": dataclasses.replace(INTERFACES["utun4"], mtu=mtu)}
        check = check_address(settings, healthy(interfaces=lambda: tunnel))
        assert (check.state.value, f"MTU {mtu}" in check.found) == (state, True)

    def test_without_a_tunnel_any_mtu_will_do(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cloud={"vpn": "none"}, cluster={"node_ip": "192.168.1.7"})
        check = check_address(settings, healthy())
        assert (check.state, check.found) == (State.OK, "192.168.1.7 on en0, MTU 1500")

    def test_ipv6_in_another_spelling_is_the_same(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cluster={"node_ip": "fd7a:0::1"})
        assert check_address(settings, healthy()).state is State.OK


class TestWorkers:
    def probes(self, nodes: list[str], *machines: tuple[str, str, float]) -> Probes:
        """Nodes that are alive, and machines by name, status and seconds since they started."""
        vms = [
            SimpleNamespace(
                name=name,
                labels={HEAD_LABEL: HEAD_ID},
                status=status,
                created_at=NOW,
                started_at=NOW - timedelta(seconds=age),
            )
            for name, status, age in machines
        ]
        client = SimpleNamespace(list_vms=lambda cluster: vms)
        rows = [{"name": name, "alive": True} for name in nodes]
        return healthy(
            nodes=lambda: [*rows, {"name": "w-gone", "alive": False}], compute=lambda: client
        )

    def test_those_that_joined_are_counted(self, settings: Settings) -> None:
        probes = self.probes(["mac", "w-1.us-central1-a.c.p.internal"], ("w-1", "RUNNING", 999))
        assert check_workers(settings, probes).found == "1 of 1 joined"
        young = self.probes(["mac"], ("w-2", "RUNNING", 899), ("w-3", "STAGING", 999))
        assert (
            check_workers(settings, young).found == "0 of 1 joined, the others are still starting"
        )

    def test_one_that_never_joined_is_an_error(self, settings: Settings) -> None:
        probes = self.probes(["mac"], ("w-gone", "RUNNING", 901), ("w-4", "TERMINATED", 999))
        step = "get-serial-port-output"
        assert_wrong(check_workers(settings, probes), State.ERROR, "w-gone run and have not", step)

    def test_nothing_to_look_at(self, settings: Settings) -> None:
        assert check_workers(settings, healthy()).state is State.NOT_NEEDED
        assert check_workers(settings, self.probes(["mac"])).state is State.NOT_NEEDED

    def test_a_cloud_that_does_not_answer(self, settings: Settings) -> None:
        def compute() -> Any:
            raise ClusterError("no answer")

        check = check_workers(settings, healthy(nodes=list, compute=compute))
        assert_wrong(check, State.ERROR, "no answer", "other checks")
