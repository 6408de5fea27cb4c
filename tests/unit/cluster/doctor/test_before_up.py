"""What keeps a head with a cloud from starting, and what is only told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.doctor.before_up import check_cloud, judge
from cluster.doctor.probes import Credentials
from cluster.gce.client import ComputeClient
from cluster.machines import CLUSTER_LABEL, HEAD_LABEL, TYPE_LABEL
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import ApiStorm, Denied
from cluster.testing.world import World
from ironcliw.errors import SettingsError
from ironcliw.settings import load_settings
from tests.unit.cluster.compute_client import new_request
from tests.unit.cluster.doctor_machine import healthy, settings_of


def asked(tmp_path: Path, *faults: Any, **sections: dict[str, Any]) -> list[str]:
    clock = ManualClock()
    with FakeCompute(World(clock=clock, faults=faults)) as compute:
        cloud = compute.cloud().model_dump() | sections.pop("cloud", {})
        settings = settings_of(tmp_path, cloud=cloud, **sections)
        client = ComputeClient(settings.cloud, clock=clock, sleep=clock.sleep)
        return judge(settings, healthy(compute=lambda: client))


def test_all_is_well(tmp_path: Path) -> None:
    assert asked(tmp_path) == []


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"budget": {"month_usd": 0.05}},
            r"budget: budget\.month_usd is 0\.05, less than one hour",
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
