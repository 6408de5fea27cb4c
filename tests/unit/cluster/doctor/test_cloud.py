"""Checks of the cloud: against stand-ins for what is rare, and a fake Compute API for the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.doctor.cloud import check_access, check_budget, check_clock
from cluster.doctor.probes import Credentials, Probes, real_probes
from cluster.doctor.report import Check, State
from cluster.gce.client import ComputeClient
from cluster.gce.errors import GceError
from cluster.gce.project import Image, Project, Quota, Zone
from cluster.machines import HEAD_LABEL, machine_type
from cluster.testing.catalogue import Catalogue
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.world import World
from ironcliw.settings import Settings
from tests.unit.cluster.doctor_machine import HEAD_ID, assert_wrong, healthy, settings_of

NAMES = ["google client", "credentials", "project", "zones", "machine type", "image", "quota"]
ZONES = ("us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f")
PLAIN = Image("debian-12-v1", "debian-12", "X86_64", "READY", 10, False, {})


@dataclasses.dataclass
class Cloud:
    """A stand-in for `ComputeClient`, as far as the checks ask it."""

    image: Image = PLAIN
    up: dict[str, bool] = dataclasses.field(default_factory=lambda: dict.fromkeys(ZONES, True))
    sold: tuple[str, ...] = ZONES
    limits: dict[str, Quota] = dataclasses.field(default_factory=dict)
    live: int = 0
    asked: str = ""

    def project(self) -> Project:
        return Project("my-project", "", {})

    def zones(self) -> list[Zone]:
        return [Zone(name, name[:-2], up) for name, up in self.up.items()]

    def offers(self, zone: str, name: str) -> Any:
        return machine_type(name) if zone in self.sold else None

    def describe_image(self) -> Image:
        return self.image

    def quotas(self, region: str) -> dict[str, Quota]:
        self.asked = region
        return self.limits

    def list_vms(self, cluster: str) -> list[Any]:
        assert cluster == "ironcliw"
        labels = {HEAD_LABEL: HEAD_ID}
        return [
            SimpleNamespace(name=str(one), labels=labels, is_live=one < self.live)
            for one in range(self.live + 1)
        ]


def access(settings: Settings, cloud: Any = None, **changes: Any) -> dict[str, Check]:
    """All checks of the access, by name."""
    probes = healthy(compute=lambda: cloud, **changes)
    checks = list(check_access(settings, probes))
    assert [check.name for check in checks] == NAMES
    return {check.name: check for check in checks}


def states(checks: dict[str, Check]) -> list[str]:
    return [check.state.value for check in checks.values()]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


class TestOrder:
    def test_all_is_well(self, settings: Settings) -> None:
        checks = access(settings, cloud := Cloud())
        assert cloud.asked == "us-central1"
        assert states(checks) == ["ok"] * 7
        assert checks["machine type"].found == "e2-highmem-4: 4 vCPUs, 32 GB"
        assert checks["quota"].found == "for 2 workers (no limit is known)"

    def test_without_a_project_nobody_asks(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cloud={"project": None})
        checks = list(check_access(settings, healthy()))
        assert [check.name for check in checks] == NAMES
        assert {check.state for check in checks} == {State.NOT_NEEDED}

    def test_without_the_library_nothing_else_is_asked(self, settings: Settings) -> None:
        checks = access(settings, installed=lambda name: None)
        assert states(checks) == ["error"] + ["not needed"] * 6
        assert checks["google client"].next_step == "pip install 'ironcliw[gcp]'"
        assert checks["quota"].found == "not looked at: put google client right first"

    @pytest.mark.parametrize(
        ("problem", "found", "step"),
        [
            ("none", "none (not found)", "gcloud auth application-default login"),
            ("expired", "expired (not found)", "gcloud auth application-default login"),
            ("offline", "Google does not answer (not found)", "online"),
        ],
    )
    def test_credentials(self, settings: Settings, problem: str, found: str, step: str) -> None:
        checks = access(settings, credentials=lambda: Credentials(problem, "not\n found"))
        assert_wrong(checks["credentials"], State.ERROR, found, step)
        assert checks["project"].state is State.NOT_NEEDED

    def test_a_refusal_keeps_its_reason_and_its_step(self, settings: Settings) -> None:
        class Closed(Cloud):
            def project(self) -> Project:
                raise GceError("look failed: forbidden (403); switch the API on", kind="auth")

        checks = access(settings, Closed())
        assert_wrong(checks["project"], State.ERROR, "look failed: forbidden (403)", "switch the A")
        assert states(checks)[3:] == ["not needed"] * 4

    def test_one_refusal_in_the_project_does_not_hide_the_rest(self, settings: Settings) -> None:
        class Partly(Cloud):
            def describe_image(self) -> Image:
                raise GceError("no such image", kind="missing")

        checks = access(settings, Partly())
        assert states(checks) == ["ok"] * 5 + ["error", "ok"]
        assert_wrong(checks["image"], State.ERROR, "no such image", "correct what")


class TestPlaces:
    def test_a_zone_that_does_not_exist(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cloud={"zones": ["us-central1-a", "us-central1-x"]})
        check = access(settings, Cloud())["zones"]
        assert_wrong(check, State.ERROR, "there is no us-central1-x", "correct cloud.zones: us-cen")
        nowhere = settings_of(tmp_path, cloud={"zones": ["mars-north1-a"]})
        assert "no zone is in mars-north1" in access(nowhere, Cloud())["zones"].next_step

    def test_zones_of_two_regions(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cloud={"zones": ["us-central1-a", "us-east1-b"]})
        assert_wrong(access(settings, Cloud())["zones"], State.ERROR, "us-east1-b", "of one region")

    def test_zones_that_are_down(self, settings: Settings) -> None:
        one = Cloud(up={**dict.fromkeys(ZONES, True), "us-central1-b": False})
        assert_wrong(access(settings, one)["zones"], State.WARNING, "down: us-central1-b", "wait")
        none = Cloud(up=dict.fromkeys(ZONES, False))
        assert_wrong(access(settings, none)["zones"], State.ERROR, "all are down", "another region")

    def test_a_machine_type_that_is_not_sold(self, settings: Settings) -> None:
        check = access(settings, Cloud(sold=ZONES[:2]))["machine type"]
        assert_wrong(check, State.WARNING, "not sold in us-central1-c, us-central1-f", "out of")
        check = access(settings, Cloud(sold=()))["machine type"]
        assert_wrong(check, State.ERROR, "sells e2-highmem-4", "correct cloud.machine_type")


class TestImage:
    @pytest.mark.parametrize(
        ("change", "state", "found", "step"),
        [
            ({"status": "PENDING"}, State.ERROR, "is PENDING", "wait"),
            (
                {"architecture": "ARM64"},
                State.ERROR,
                "for ARM64, a e2-highmem-4 is X86_64",
                "set c",
            ),
            ({"disk_gb": 60}, State.ERROR, "cloud.disk_gb is 50", "set cloud.disk_gb = 60"),
            ({"is_deprecated": True}, State.WARNING, "is deprecated", "successor"),
        ],
    )
    def test_one_that_cannot_boot(
        self, settings: Settings, change: dict[str, Any], state: State, found: str, step: str
    ) -> None:
        check = access(settings, Cloud(image=dataclasses.replace(PLAIN, **change)))["image"]
        assert_wrong(check, state, found, step)

    def test_an_arm_machine_wants_an_arm_image(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cloud={"machine_type": "t2a-standard-4"})
        assert access(settings, Cloud())["image"].state is State.ERROR
        arm = Cloud(image=dataclasses.replace(PLAIN, architecture="ARM64"))
        assert access(settings, arm)["image"].state is State.OK

    @pytest.mark.parametrize(
        ("labels", "match", "state", "found"),
        [
            (
                {"ironcliw-python": "3-11-7", "ironcliw-ray": "2-60-0"},
                "patch",
                "ok",
                "Python 3.11.7",
            ),
            (
                {"ironcliw-python": "3-11-2", "ironcliw-ray": "2-60-0"},
                "patch",
                "error",
                "3.11.2, here",
            ),
            (
                {"ironcliw-python": "3-11-2", "ironcliw-ray": "2-60-0"},
                "minor",
                "ok",
                "Python 3.11.2",
            ),
            ({"ironcliw-python": "3-12-7", "ironcliw-ray": "2-60-0"}, "minor", "error", "3.12.7"),
            (
                {"ironcliw-python": "3-11-7", "ironcliw-ray": "2-59-0"},
                "patch",
                "error",
                "2.59.0, here",
            ),
            ({"ironcliw-ray": "2-60-0"}, "patch", "warning", "no label ironcliw-python"),
        ],
    )
    def test_a_baked_one_holds_the_heads_versions(
        self, tmp_path: Path, labels: dict[str, str], match: str, state: str, found: str
    ) -> None:
        settings = settings_of(tmp_path, cloud={"image_is_baked": True})
        cloud = Cloud(image=dataclasses.replace(PLAIN, labels=labels))
        check = access(settings, cloud, match_level=lambda: match)["image"]
        assert (check.state.value, found in check.found) == (state, True), check

    def test_doctor_and_provider_read_the_same_level(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One variable of the environment, which Ray names, decides for both."""
        labels = {"ironcliw-python": "3-11-2", "ironcliw-ray": "2-60-0"}
        cloud = Cloud(image=dataclasses.replace(PLAIN, labels=labels))
        settings = settings_of(tmp_path, cloud={"image_is_baked": True})
        real = {"match_level": real_probes(settings).match_level}
        assert access(settings, cloud, **real)["image"].state is State.ERROR
        monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
        assert access(settings, cloud, **real)["image"].state is State.OK
        monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "major")
        check = access(settings, cloud, **real)["image"]
        assert_wrong(check, State.ERROR, "is 'major', which Ray refuses", "set it to `patch` or")

    def test_the_labels_to_add_are_told(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cloud={"image_is_baked": True})
        step = access(settings, Cloud())["image"].next_step
        assert step.endswith("debian-12-v1 --labels=ironcliw-python=3-11-7,ironcliw-ray=2-60-0")


class TestQuota:
    def check(
        self, tmp_path: Path, cloud: dict[str, Any], limits: dict[str, Quota], live: int = 0
    ) -> Check:
        settings = settings_of(tmp_path, cloud={"max_workers": 3, **cloud})
        return access(settings, Cloud(limits=limits, live=live))["quota"]

    @pytest.mark.parametrize(
        ("limits", "live", "state", "found"),
        [
            ({"PREEMPTIBLE_CPUS": Quota(12, 0)}, 0, "ok", "for 3 workers (PREEMPTIBLE_CPUS: 0 of"),
            (
                {"PREEMPTIBLE_CPUS": Quota(11, 0)},
                0,
                "warning",
                "for 2 of 3 workers (PREEMPTIBLE_CP",
            ),
            ({"PREEMPTIBLE_CPUS": Quota(3, 0)}, 0, "error", "for 0 of 3 workers"),
            # what runs already is part of the workers wanted
            ({"PREEMPTIBLE_CPUS": Quota(12, 12)}, 3, "ok", "for 3 workers"),
            ({"PREEMPTIBLE_CPUS": Quota(8, 8)}, 2, "warning", "for 2 of 3 workers"),
            # none granted: Spot machines take from the regular quota
            ({"PREEMPTIBLE_CPUS": Quota(0, 0), "CPUS": Quota(24, 0)}, 0, "ok", "(CPUS: 0 of 24"),
            ({"PREEMPTIBLE_CPUS": Quota(0, 0), "CPUS": Quota(0, 0)}, 0, "error", "(CPUS: 0 of 0"),
            ({"CPUS": Quota(24, 22)}, 0, "error", "(CPUS: 22 of 24 used)"),
            ({"IN_USE_ADDRESSES": Quota(2, 0)}, 0, "warning", "for 2 of 3 workers (IN_USE"),
            ({"DISKS_TOTAL_GB": Quota(149, 0)}, 0, "warning", "for 2 of 3 workers (DISKS"),
        ],
    )
    def test_it_must_do_for_the_workers_wanted(
        self, tmp_path: Path, limits: dict[str, Quota], live: int, state: str, found: str
    ) -> None:
        check = self.check(tmp_path, {}, limits, live)
        assert (check.state.value, found in check.found) == (state, True), check
        assert bool(check.next_step) == ("us-central1" in check.next_step)

    def test_a_family_may_have_a_quota_of_its_own(self, tmp_path: Path) -> None:
        limits = {"CPUS": Quota(99, 0), "N2_CPUS": Quota(0, 0), "PREEMPTIBLE_CPUS": Quota(99, 0)}
        regular = {"machine_type": "n2-standard-4", "market": "regular"}
        assert "N2_CPUS" in self.check(tmp_path, regular, limits).found
        spot = {"machine_type": "n2-standard-4"}
        assert self.check(tmp_path, spot, limits).state is State.OK

    def test_addresses_count_only_where_they_are_wanted(self, tmp_path: Path) -> None:
        none = {"IN_USE_ADDRESSES": Quota(0, 0)}
        assert self.check(tmp_path, {"external_address": False}, none).state is State.OK


class TestClockAndBudget:
    @pytest.mark.parametrize(
        ("offset", "state", "found"),
        [
            (0.9, State.OK, "1 s ahead of https://compute.googleapis.com"),
            (-10.5, State.WARNING, "10 s behind https://compute.googleapis.com"),
            (91, State.ERROR, "91 s ahead"),
            (-3600, State.ERROR, "3600 s behind"),
            (None, State.ERROR, "https://compute.googleapis.com does not answer"),
        ],
    )
    def test_the_clock(
        self, settings: Settings, offset: float | None, state: State, found: str
    ) -> None:
        check = check_clock(settings, healthy(clock_offset=lambda url: offset))
        assert (check.state, found in check.found) == (state, True), check

    def test_a_cap_below_an_hour(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, budget={"month_usd": 0.05})
        check = check_budget(settings, healthy())
        assert_wrong(check, State.ERROR, "budget.month_usd is 0.05", "raise budget.month_usd")

    def test_what_the_cap_buys(self, settings: Settings) -> None:
        check = check_budget(settings, healthy())
        assert check.state is State.OK
        assert "25.00 USD a month: 342 hours of a spot e2-highmem-4 at 0.0732" in check.found

    def test_neither_is_needed_without_a_project(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, cloud={"project": None})
        for check in (check_clock, check_budget):
            assert check(settings, healthy()).state is State.NOT_NEEDED


class TestWithTheRealClient:
    """The real Google client and a Compute API on loopback."""

    def checks(self, compute: FakeCompute, folder: Path, **changes: Any) -> dict[str, Check]:
        settings = settings_of(folder, cloud=compute.cloud(**changes).model_dump())
        return access(settings, ComputeClient(settings.cloud, sleep=lambda seconds: None))

    def test_a_project_that_is_ready(self, tmp_path: Path) -> None:
        with FakeCompute() as compute:
            checks = self.checks(compute, tmp_path)
            assert states(checks) == ["ok", "not needed", *["ok"] * 5], checks
            wrong = self.checks(
                compute,
                tmp_path,
                zones=["us-central1-a", "us-central1-z"],
                image="projects/debian-cloud/global/images/family/debian-99",
            )
        assert states(wrong)[3] == "error"
        assert_wrong(wrong["image"], State.ERROR, "debian-99", "image")

    def test_a_project_without_quota(self, tmp_path: Path) -> None:
        quotas = {"CPUS": 0.0, "PREEMPTIBLE_CPUS": 0.0}
        with FakeCompute(World(catalogue=Catalogue(quotas=quotas))) as compute:
            check = self.checks(compute, tmp_path)["quota"]
        assert_wrong(check, State.ERROR, "for 0 of 2 workers (CPUS: 0 of 0 used)", "IAM & Admin")


def test_probes_are_asked_for_a_client_once(settings: Settings) -> None:
    made: list[Cloud] = []

    def compute() -> Cloud:
        made.append(Cloud())
        return made[-1]

    probes: Probes = healthy(compute=compute)
    list(check_access(settings, probes))
    assert len(made) == 1
