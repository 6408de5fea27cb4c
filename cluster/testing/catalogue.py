"""What a fake cloud offers: zones, machine types, images, networks, quotas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_SIZES = (2, 4, 8, 16, 32)
_SERIES = ("e2", "n1", "n2", "n2d", "t2d")
# GB a vCPU: https://cloud.google.com/compute/docs/general-purpose-machines (n1 has its own)
_GB_A_CPU = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0}
_N1_GB_A_CPU = {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9}


@dataclass(frozen=True, slots=True)
class OfferedType:
    """A machine type."""

    name: str
    cpus: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class OfferedImage:
    """A boot image; the last of a family is the family's."""

    project: str
    name: str
    family: str
    disk_gb: int = 10


def _types() -> dict[str, OfferedType]:
    types = {}
    for series in _SERIES:
        for shape, gigabytes in (_N1_GB_A_CPU if series == "n1" else _GB_A_CPU).items():
            for cpus in _SIZES:
                name = f"{series}-{shape}-{cpus}"
                types[name] = OfferedType(name, cpus, round(cpus * gigabytes * 1024))
    return types


def _images() -> tuple[OfferedImage, ...]:
    return (
        OfferedImage("debian-cloud", "debian-12-bookworm-v20260101", "debian-12"),
        OfferedImage("debian-cloud", "debian-12-bookworm-v20260110", "debian-12"),
        OfferedImage("test-project", "ironcliw-worker-1", "ironcliw-worker", disk_gb=20),
    )


@dataclass(frozen=True)
class Catalogue:
    """What can be had. Change a part with `dataclasses.replace`."""

    project: str = "test-project"
    zones: tuple[str, ...] = (
        "us-central1-a",
        "us-central1-b",
        "us-central1-c",
        "us-central1-f",
    )
    types: Mapping[str, OfferedType] = field(default_factory=_types)
    images: tuple[OfferedImage, ...] = field(default_factory=_images)
    networks: tuple[str, ...] = ("default",)
    quotas: Mapping[str, float] = field(
        default_factory=lambda: {
            "CPUS": 72.0,
            "PREEMPTIBLE_CPUS": 72.0,
            "INSTANCES": 72.0,
            "DISKS_TOTAL_GB": 4096.0,
            "IN_USE_ADDRESSES": 8.0,
        }
    )
    """Limits of each region, by metric."""
    obtainability: Mapping[str, float] | None = None
    """Chance from 0 to 1 of getting a Spot VM, by zone; None: the advice API refuses."""

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions of the zones, sorted."""
        return tuple(sorted({region_of(zone) for zone in self.zones}))

    def image(self, project: str, name: str, *, is_family: bool = False) -> OfferedImage | None:
        """The image of a name, or the newest of a family."""
        found = [
            image
            for image in self.images
            if image.project == project and name == (image.family if is_family else image.name)
        ]
        return found[-1] if found else None


def region_of(zone: str) -> str:
    """`us-central1` for `us-central1-a`."""
    return zone.rpartition("-")[0]
