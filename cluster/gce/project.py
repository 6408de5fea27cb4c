"""What a project offers: for checks before a launch, and for the choice of a zone. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.gce.errors import GceError
from cluster.gce.requests import last_part
from cluster.gce.session import READ, Patience, Session
from cluster.machines import MachineType, region_of
from ironcliw.setting_sections import CloudSettings

# a project that may not ask for advice will not be allowed to within the hour
_ADVICE_PAUSE = 3600.0
_ADVICE_SHORT_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Project:
    """The project as the account sees it; quotas by metric hold in all regions together."""

    name: str
    default_service_account: str
    quotas: Mapping[str, Quota]


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of something may be had, and how much is."""

    limit: float
    usage: float

    @property
    def free(self) -> float:
        """What may still be had."""
        return max(self.limit - self.usage, 0.0)


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone that the project may use."""

    name: str
    region: str
    is_up: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A boot image: `labels` of a baked one say what it holds."""

    name: str
    family: str
    architecture: str
    status: str
    disk_gb: int
    is_deprecated: bool
    labels: Mapping[str, str]


class ProjectReader:
    """Questions about the project; all but `capacity` raise `GceError` when there is no answer.

    Args:
        cloud: Project, image and endpoint.
        session: To ask with.
    """

    def __init__(self, cloud: CloudSettings, session: Session) -> None:
        self.cloud = cloud
        self.session = session
        self._no_advice_before = float("-inf")

    def project(self) -> Project:
        """The project of the settings."""
        found = self._read(f"look at project {self.session.project}", "ProjectsClient")
        return Project(found.name, found.default_service_account, _quotas(found))

    def zones(self) -> list[Zone]:
        """All zones, by name."""
        pager = self._read("list of zones", "ZonesClient", "list", request={"max_results": 500})
        found = [Zone(one.name, last_part(one.region), one.status == "UP") for one in pager.items]
        return sorted(found, key=lambda zone: zone.name)

    def quotas(self, region: str) -> dict[str, Quota]:
        """The region's quotas by metric: `CPUS`, `PREEMPTIBLE_CPUS`, `IN_USE_ADDRESSES`, ..."""
        return _quotas(self._read(f"look at region {region}", "RegionsClient", region=region))

    def offers(self, zone: str, machine_type: str) -> MachineType | None:
        """The machine type as the zone sells it; None where it does not."""
        action = f"look for {machine_type} in {zone}"
        try:
            found = self._read(action, "MachineTypesClient", zone=zone, machine_type=machine_type)
        except GceError as error:
            if error.kind == "missing":
                return None
            raise
        return MachineType(found.name, found.guest_cpus, found.memory_mb / 1024)

    def describe_image(self) -> Image:
        """The boot image of the settings; of a family, the newest that is not deprecated."""
        project, family, name = image_parts(self.cloud.image)
        asked: dict[str, Any] = {"project": project or self.session.project}
        method = "get_from_family" if family else "get"
        asked["family" if family else "image"] = name
        found = self._read(f"look at image {self.cloud.image}", "ImagesClient", method, **asked)
        return Image(
            name=found.name,
            family=found.family,
            architecture=found.architecture,
            status=found.status,
            disk_gb=found.disk_size_gb,
            is_deprecated=bool(found.deprecated.state),
            labels=dict(found.labels),
        )

    def capacity(self, zones: Sequence[str]) -> dict[str, float]:
        """GCE's own guess, from 0 to 1, that a machine can be had, by zone.

        Empty where it is not given, which is then not tried again for a time: an hour if the
        project may not ask. Zones that GCE says nothing about are absent.
        """
        advice: dict[str, float] = {}
        if self.session.clock() < self._no_advice_before:
            return advice
        for zone in zones:
            try:
                score = self._obtainability(zone)
            except GceError as error:
                # a convenience: the order of zones does without it
                passes = error.kind in ("unavailable", "rate")
                pause = _ADVICE_SHORT_PAUSE if passes else _ADVICE_PAUSE
                self._no_advice_before = self.session.clock() + pause
                return {}
            if score is not None:
                advice[zone] = score
        return advice

    def _obtainability(self, zone: str) -> float | None:
        model = "SPOT" if self.cloud.market == "spot" else "STANDARD"
        selection = {"machine_types": [self.cloud.machine_type]}
        answer = self.session.call(
            f"advice on {zone}",
            "AdviceClient",
            "capacity",
            Patience(READ.attempt, READ.attempt),
            project=self.session.project,
            region=region_of(zone),
            capacity_advice_request_resource={
                "size": 1,
                "distribution_policy": {
                    "target_shape": "ANY_SINGLE_ZONE",
                    "zones": [{"zone": f"zones/{zone}"}],
                },
                "instance_properties": {"scheduling": {"provisioning_model": model}},
                "instance_flexibility_policy": {"instance_selections": {"worker": selection}},
            },
        )
        scores = [one.scores for one in answer.recommendations if "obtainability" in one.scores]
        return min(max(scores[0].obtainability, 0.0), 1.0) if scores else None

    def _read(self, action: str, client: str, method: str = "get", **asked: Any) -> Any:
        request = asked.pop("request", {})
        message = {"project": self.session.project, **request, **asked}
        return self.session.call(action, client, method, READ, request=message)


def image_parts(image: str) -> tuple[str, bool, str]:
    """Project (empty: the project's own), whether it names a family, and the name of an image.

    Raises:
        GceError: (invalid) it is no address of an image.
    """
    parts = image.split("/")
    project = ""
    if parts[0] == "projects" and len(parts) > 2:
        project, parts = parts[1], parts[2:]
    match parts:
        case ["global", "images", "family", name] if name:
            return project, True, name
        case ["global", "images", name] if name:
            return project, False, name
    raise GceError(
        f"cloud.image is {image!r}; it must be [projects/PROJECT/]global/images/NAME or "
        "[projects/PROJECT/]global/images/family/FAMILY",
        kind="invalid",
        code="INVALID_IMAGE",
    )


def _quotas(found: Any) -> dict[str, Quota]:
    return {quota.metric: Quota(quota.limit, quota.usage) for quota in found.quotas}
