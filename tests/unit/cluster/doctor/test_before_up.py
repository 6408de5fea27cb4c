"""What keeps a head with a cloud from starting, and what is only told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.doctor.before_up import check_cloud, judge
from cluster.doctor.probes import Credentials
from cluster.environment import GIBIBYTE
from cluster.gce.client import ComputeClient
from cluster.gce.project import Quota
from cluster.machines import CLUSTER_LABEL, HEAD_LABEL, TYPE_LABEL
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import ApiStorm, Denied
from cluster.testing.world import World
from ironcliw.errors import SettingsError
from ironcliw.settings import Settings, load_settings
from tests.unit.cluster.compute_client import new_request
from tests.unit.cluster.doctor_machine import (
    ADDRESS,
    TAILSCALE,
    healthy,
    programs,
    settings_of,
)

from .test_cloud import Cloud


def asked(tmp_path: Path, *faults: Any, **sections: dict[str, Any]) -> list[str]:
    clock = ManualClock()
    with FakeCompute(World(clock=clock, faults=faults)) as compute:
        cloud = compute.cloud().model_dump() | sections.pop("cloud", {})
        settings = settings_of(tmp_path, cloud=cloud, **sections)
        client = ComputeClient(settings.cloud, clock=clock, sleep=clock.sleep)
        return judge(settings, healthy(compute=lambda: client))


def of_google(tmp_path: Path, sections: dict[str, Any], **probes: Any) -> list[str]:
    """The same without an endpoint of a test bed: as at Google's."""
    settings = settings_of(tmp_path, **sections)
    return judge(settings, healthy(**{"compute": Cloud, **probes}))


def test_all_is_well(tmp_path: Path) -> None:
    assert asked(tmp_path) == []
    assert of_google(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"budget": {"month_usd": 0.05}},
            r"budget: budget\.month_usd is 0\.05, less than one hour",
        ),
        (
            {"cloud": {"vpn": "none", "vpn_secret": "key", "service_account": None}},
            r"secrets: cloud\.vpn_secret cannot be read by a worker",
        ),
        ({"cluster": {"gcs_port": 8265}}, "ports: .*given twice.*; give each its own port"),
        ({"cloud": {"zones": ["us-central1-q"]}}, r"zones: there is no us-central1-q; correct"),
        ({"cloud": {"machine_type": "e2-highmem-3"}}, "machine type 'e2-highmem-3' does not exist"),
        ({"cloud": {"project": "nobodys"}}, "project: .*nobodys"),
        ({"cloud": {"keep_warm": ["now"]}}, "keep warm: .*'now'; write a window"),
    ],
)
def test_what_nothing_could_be_launched_with_is_refused(
    tmp_path: Path, sections: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        asked(tmp_path, **sections)


NO_CPUS = {"CPUS": Quota(0, 0)}


@pytest.mark.parametrize(
    ("sections", "probes", "message"),
    [
        (
            {"cluster": {"node_ip": "127.0.0.1"}},
            {},
            (
                r"address: cluster\.node_ip is 127\.0\.0\.1, which no other machine can reach; "
                rf"set cluster\.node_ip = '{ADDRESS}'"
            ),
        ),
        (
            {"cluster": {"node_ip": "100.64.0.9"}},
            {},
            r"address: no interface .*cluster\.node_ip, 100\.64\.0\.9; start the VPN, or set",
        ),
        (
            {"cloud": {"vpn_secret": None}},
            {},
            (
                r"vpn: cloud\.vpn is tailscale and cloud\.vpn_secret is unset: a worker has no key "
                r"to join with; store a key in Secret Manager .* set cloud\.vpn_secret"
            ),
        ),
        (
            {},
            {"output": programs({**TAILSCALE, "BackendState": "Stopped"})},
            r"vpn: Tailscale is Stopped, and by cloud\.vpn workers come .*; tailscale up",
        ),
        ({}, {"program": lambda name: None}, r"vpn: cloud\.vpn is tailscale, which is not inst"),
        (
            {},
            {"free_bytes": lambda path: GIBIBYTE},
            r"disk: 1\.0 GiB free at .*; free at least 2 GiB there",
        ),
        (
            {},
            {"clock_offset": lambda url: -600.0},
            r"clock: 600 s behind https://compute\.googleapis\.com; set the clock: ",
        ),
        (
            {},
            {"compute": lambda: Cloud(limits=NO_CPUS)},
            r"quota: for 0 of 2 workers \(CPUS: 0 of 0 used\); ask for more in the console",
        ),
    ],
)
def test_machines_that_could_not_join_or_work_are_not_launched(
    tmp_path: Path, sections: dict[str, Any], probes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        of_google(tmp_path, sections, **probes)


def test_an_endpoint_of_googles_is_no_test_bed(tmp_path: Path) -> None:
    sections = {
        "cluster": {"node_ip": "127.0.0.1"},
        "cloud": {"api_endpoint": "https://compute.googleapis.com"},
    }
    with pytest.raises(SettingsError, match=r"address: cluster\.node_ip is 127\.0\.0\.1"):
        of_google(tmp_path, sections)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_a_fake_cloud_on_loopback_needs_no_vpn(tmp_path: Path, address: str) -> None:
    """With nothing set but the project and the endpoint."""
    clock = ManualClock()
    with FakeCompute(World(clock=clock)) as compute:
        cloud = compute.cloud().model_dump(exclude_unset=True)
        settings = Settings.model_validate(
            {"state_dir": tmp_path, "cloud": cloud, "cluster": {"node_ip": address}}
        )
        client = ComputeClient(settings.cloud, clock=clock, sleep=clock.sleep)
        probes = healthy(
            compute=lambda: client, program=lambda name: None, output=lambda *words: None
        )
        assert (settings.cloud.vpn, settings.cloud.vpn_secret) == ("tailscale", None)
        assert judge(settings, probes) == []


def test_a_head_alone_is_asked_nothing_of_the_cloud(tmp_path: Path) -> None:
    probes = healthy(
        program=lambda name: None, interfaces=dict, clock_offset=lambda url: 1 / 0, compute=None
    )
    assert judge(Settings(state_dir=tmp_path), probes) == []


def test_a_full_disk_is_foreseen(tmp_path: Path) -> None:
    (note,) = of_google(tmp_path, {}, free_bytes=lambda path: 9 * GIBIBYTE)
    assert note.startswith("disk: 9.0 GiB free at ")


def test_a_clock_that_nobody_tells_keeps_no_head_from_starting(tmp_path: Path) -> None:
    (note,) = of_google(tmp_path, {}, clock_offset=lambda url: None)
    assert note.startswith("clock: https://compute.googleapis.com does not answer; see whether")
    offline = Credentials("offline", "no route")
    (note,) = of_google(tmp_path, {}, clock_offset=lambda url: None, credentials=lambda: offline)
    assert note.endswith("no machine is launched until that passes")


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"budget: .*; and zones: .*without cloud\.project"):
        asked(tmp_path, budget={"month_usd": 0.05}, cloud={"zones": ["us-central1-q"]})


def test_no_permission_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"project: .*gcloud auth"):
        asked(tmp_path, Denied(status=403))


def test_a_cloud_that_does_not_answer_keeps_no_head_from_starting(tmp_path: Path) -> None:
    (note,) = asked(tmp_path, ApiStorm())
    assert note.endswith("no machine is launched until that passes")


def test_credentials_are_refused_and_being_offline_is_not(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    absent = healthy(credentials=lambda: Credentials("none", "no file"))
    with pytest.raises(SettingsError, match=r"credentials: none .*gcloud auth application-default"):
        judge(settings, absent)
    offline = healthy(credentials=lambda: Credentials("offline", "no route"))
    (note,) = judge(settings, offline)
    assert "Google does not answer (no route)" in note


def test_another_heads_machines_are_told_and_keep_no_head_from_starting(tmp_path: Path) -> None:
    clock = ManualClock()
    with FakeCompute(World(clock=clock)) as compute:
        settings = settings_of(tmp_path, cloud=compute.cloud().model_dump())
        client = ComputeClient(settings.cloud, clock=clock, sleep=clock.sleep)
        labels = {CLUSTER_LABEL: "ironcliw", HEAD_LABEL: "89abcdef", TYPE_LABEL: "spot"}
        theirs = new_request(cluster="ironcliw", labels=labels)
        client.insert(theirs)
        (note,) = judge(settings, healthy(compute=lambda: client))
    assert note.startswith(f"names: {theirs.name} (it belongs to the head 89abcdef) carry")


def test_it_looks_through_real_probes() -> None:
    with FakeCompute() as compute:
        settings = load_settings().model_copy(
            update={"cloud": compute.cloud(zones=("us-central1-z",))}
        )
        with pytest.raises(SettingsError, match="there is no us-central1-z"):
            check_cloud(settings)
