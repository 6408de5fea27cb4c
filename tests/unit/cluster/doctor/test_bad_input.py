"""Each thing that the cluster's users get wrong, or that happens to them: one check names it.

All that `ironcliw doctor` looks at is looked at, on a machine where all else is well, so that the
culprit stands alone, with what to do about it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config import CLUSTER_FILE, write_cluster_file
from cluster.doctor.checklist import examine
from cluster.doctor.probes import Credentials
from cluster.doctor.report import Check, State
from cluster.environment import GIBIBYTE
from cluster.gce.project import Quota
from cluster.machines import HEAD_LABEL
from tests.unit.cluster.doctor_machine import (
    HEAD_ID,
    NOW,
    TAILSCALE,
    assert_wrong,
    healthy,
    programs,
    settings_of,
)

from .test_cloud import PLAIN, ZONES, Cloud

LONG_AGO = NOW - timedelta(hours=1)
OURS = SimpleNamespace(
    name="ironcliw-1",
    labels={HEAD_LABEL: HEAD_ID},
    is_live=True,
    status="RUNNING",
    started_at=LONG_AGO,
    created_at=LONG_AGO,
)


class Whole(Cloud):
    """A cloud with one machine, which was ordered here and has joined."""

    def list_vms(self, cluster: str) -> list[Any]:
        return [OURS]


def look(folder: Path, cloud: Cloud, settings: dict[str, Any], probes: dict[str, Any]) -> Any:
    given = {
        "compute": lambda: cloud,
        "nodes": lambda: [{"name": "ironcliw-1.c.p.internal", "alive": True}],
        "ordered": lambda: frozenset({"ironcliw-1"}),
        **probes,
    }
    return list(examine(settings_of(folder, **settings), healthy(**given)))


@dataclasses.dataclass(frozen=True)
class Case:
    """What is wrong, the check that says so with its next step, and those that suffer as well."""

    check: str
    state: State
    found: str
    step: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    probes: dict[str, Any] = dataclasses.field(default_factory=dict)
    cloud: Callable[[], Cloud] = Whole
    also: tuple[str, ...] = ()


BAKED = {"cloud": {"image_is_baked": True}}


def baked(python: str, ray: str) -> Cloud:
    labels = {"ironcliw-python": python, "ironcliw-ray": ray}
    return Whole(image=dataclasses.replace(PLAIN, labels=labels))


CASES = {
    "no credentials": Case(
        "credentials",
        State.ERROR,
        "none (not found)",
        "gcloud auth application-default login",
        probes={"credentials": lambda: Credentials("none", "not found")},
    ),
    "credentials that expired": Case(
        "credentials",
        State.ERROR,
        "expired (invalid_grant)",
        "gcloud auth application-default login",
        probes={"credentials": lambda: Credentials("expired", "invalid_grant")},
    ),
    "an unknown zone": Case(
        "zones",
        State.ERROR,
        "there is no us-central1-z",
        "correct cloud.zones: us-central1-a",
        settings={"cloud": {"zones": ["us-central1-a", "us-central1-z"]}},
        also=("machine type",),
    ),
    "a machine type that no zone has": Case(
        "machine type",
        State.ERROR,
        "no zone of cloud.zones sells e2-highmem-4",
        "correct cloud.machine_type",
        cloud=lambda: Whole(sold=()),
    ),
    "quota 0": Case(
        "quota",
        State.WARNING,  # one runs already, and goes on
        "for 1 of 2 workers (CPUS: 0 of 0 used)",
        "IAM & Admin > Quotas, filter CPUS",
        cloud=lambda: Whole(limits={"CPUS": Quota(0, 0)}),
    ),
    "a cap below one hour": Case(
        "budget",
        State.ERROR,
        "less than one hour of a spot e2-highmem-4",
        "raise budget.month_usd",
        settings={"budget": {"month_usd": 0.01}},
    ),
    "clashing ports": Case(
        "ports",
        State.ERROR,
        "cluster.gcs_port is 8265",
        "give each its own port",
        settings={"cluster": {"gcs_port": 8265}},
    ),
    "another Ray here": Case(
        "versions",
        State.ERROR,
        "Ray 2.59.0; the project needs 2.60.0",
        "pip install 'ray==2.60.0'",
        probes={"installed": {"ray": "2.59.0", "google-cloud-compute": "1"}.get},
    ),
    "another Python in the image": Case(
        "image",
        State.ERROR,
        "ironcliw-python 3.11.9, here 3.11.7",
        "bake the image anew",
        settings=BAKED,
        cloud=lambda: baked("3-11-9", "2-60-0"),
    ),
    "another Ray in the image": Case(
        "image",
        State.ERROR,
        "ironcliw-ray 2.59.0, here 2.60.0",
        "bake the image anew",
        settings=BAKED,
        cloud=lambda: baked("3-11-7", "2-59-0"),
    ),
    "the VPN is down": Case(
        "vpn",
        State.ERROR,
        "Tailscale is Stopped",
        "tailscale up",
        probes={"output": programs({**TAILSCALE, "BackendState": "Stopped"})},
    ),
    "the VPN goes one way": Case(
        "workers",
        State.ERROR,
        "ironcliw-1 run and have not joined",
        "firewall, both ways",
        probes={"nodes": lambda: [{"name": "ironcliw-1", "alive": False}]},
    ),
    "a name that another head has": Case(
        "names",
        State.WARNING,
        "ironcliw-1 (it belongs to the head 0123abcd) carry the name 'ironcliw' and are not",
        "a cloud.cluster_name of its own",
        probes={"head_id": lambda: "89abcdef"},
    ),
    "a machine that never joins": Case(
        "workers",
        State.ERROR,
        "have not joined within cloud.join_seconds",
        "get-serial-port-output",
        probes={"nodes": lambda: [{"name": "mac", "alive": True}]},
    ),
    "a full disk": Case(
        "disk",
        State.ERROR,
        "0.5 GiB free",
        "free at least 2 GiB there",
        probes={"free_bytes": lambda path: GIBIBYTE // 2},
    ),
    "a clock that is wrong": Case(
        "clock",
        State.ERROR,
        "600 s ahead of",
        "timedatectl set-ntp true",
        probes={"clock_offset": lambda url: 600.0},
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_where_all_is_well_nothing_is_said(folder: Path) -> None:
    checks = look(folder, Whole(), {}, {})
    assert [one for one in checks if one.next_step] == []
    assert [one.name for one in checks if one.state is State.NOT_NEEDED] == [
        "cluster file",
        "keep warm",
        "open ports",
    ]
    assert set(ZONES) <= set(Whole().up)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_check_names_it_and_says_what_to_do(folder: Path, case: Case) -> None:
    checks: list[Check] = look(folder, case.cloud(), case.settings, case.probes)
    wrong, *others = [one for one in checks if one.next_step]
    assert (wrong.name, tuple(one.name for one in others)) == (case.check, case.also)
    assert_wrong(wrong, case.state, case.found, case.step)


def test_a_typo_in_the_file(folder: Path) -> None:
    settings = settings_of(folder)
    write_cluster_file(settings, Path(CLUSTER_FILE))
    text = Path(CLUSTER_FILE).read_text(encoding="utf-8")
    Path(CLUSTER_FILE).write_text(text.replace("machine_type:", "machin_type:"), encoding="utf-8")
    [wrong] = [one for one in look(folder, Whole(), {}, {}) if one.next_step]
    assert_wrong(wrong, State.ERROR, "did you mean 'machine_type'?", "correct ray_cluster.yaml")
    assert "ray_cluster.yaml:" in wrong.found
