"""What an image for workers is made of, taken from this head: `cluster/deploy/image/bake.sh` asks.

A worker of a baked image joins in the time that it takes to boot; one without installs Python, Ray
and torch first, for some minutes. The image's labels say what it holds, and `ironcliw doctor`
compares them with the head.
"""

from __future__ import annotations

import base64
import gzip
import io
import shlex
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

from cluster.machines import METADATA_VALUE_BYTES
from cluster.vm.join_check import HeadVersions, head_versions
from cluster.vm.startup import (
    CONSTRAINTS_ATTRIBUTE,
    REQUIREMENTS_ATTRIBUTE,
    STARTUP_ATTRIBUTE,
    UV_VERSION,
    vm_script,
)
from ironcliw.errors import SettingsError
from ironcliw.setting_sections import CloudSettings
from ironcliw.settings import load_settings, python_match_level

KERNELS_ATTRIBUTE = "ironcliw-kernels"
PYTHON_LABEL, RAY_LABEL = "ironcliw-python", "ironcliw-ray"
READY = "ironcliw: the image is ready"
"""The last line on the serial console of a VM that bakes an image."""
# tests and fuzzers of the kernels, which no wheel holds
_LEFT_OUT = ("tests", "fuzz")


def image_labels(versions: HeadVersions) -> dict[str, str]:
    """What the image says of itself; a label's value may hold no dot, so 3.11.7 is 3-11-7."""
    found = {PYTHON_LABEL: versions.python, RAY_LABEL: dict(versions.pins).get("ray", "none")}
    return {name: value.replace(".", "-") for name, value in found.items()}


def image_metadata(
    cloud: CloudSettings, versions: HeadVersions, kernels: Path | None
) -> dict[str, str]:
    """Instance metadata of the VM that becomes the image; no secret is in it.

    Args:
        cloud: Says which VPN and which metadata server.
        versions: The head's.
        kernels: The folder of the distribution `ironcliw-native`; None: the image has no kernels,
            and its workers use the references in torch.

    Raises:
        SettingsError: a value is longer than GCE takes.
    """
    constants = {
        "METADATA_URL": cloud.metadata_url,
        "BAKED": "false",
        "PYTHON_VERSION": versions.python,
        "MODELS": " ".join(versions.models),
        "UV_VERSION": UV_VERSION,
        "VPN": cloud.vpn,
        "KERNELS": "false" if kernels is None else "true",
    }
    found = {
        STARTUP_ATTRIBUTE: vm_script("image.sh", constants),
        REQUIREMENTS_ATTRIBUTE: "".join(f"{one}\n" for one in versions.requirements),
        CONSTRAINTS_ATTRIBUTE: versions.constraints(),
    }
    if kernels is not None:
        found[KERNELS_ATTRIBUTE] = base64.b64encode(_packed(kernels)).decode()
    for name, value in found.items():
        if len(value.encode()) > METADATA_VALUE_BYTES:
            raise SettingsError(f"metadata {name} has more than {METADATA_VALUE_BYTES} bytes")
    return found


def write_image_files(
    folder: Path, cloud: CloudSettings, versions: HeadVersions, kernels: Path | None
) -> None:
    """Write what `bake.sh` hands to gcloud: a file for each attribute, and `facts.sh`.

    Raises:
        SettingsError: cloud.project is unset, or a value is too long.
    """
    if cloud.project is None:
        raise SettingsError("an image belongs to a project: set cloud.project")
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in image_metadata(cloud, versions, kernels).items():
        (folder / name).write_text(value, encoding="utf-8")
    labels = ",".join(f"{name}={value}" for name, value in image_labels(versions).items())
    facts: Mapping[str, str] = {
        "PROJECT": cloud.project,
        "ZONE": cloud.zones[0],
        "NETWORK": cloud.network,
        "SUBNETWORK": cloud.subnetwork or "",
        "DISK_GB": str(cloud.disk_gb),
        "LABELS": labels,
        "READY": READY,
    }
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in facts.items()]
    (folder / "facts.sh").write_text("".join(lines), encoding="utf-8")


def _packed(kernels: Path) -> bytes:
    """The sources of the kernels as a tar.gz, the same bytes for the same files."""

    def keep(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if Path(member.name).name in _LEFT_OUT:
            return None
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("pyproject.toml", "csrc"):
            archive.add(kernels / name, name, filter=keep)
    # gzip would note the time
    return gzip.compress(buffer.getvalue(), mtime=0)


def main() -> None:
    """Run as `python -m cluster.vm.image FOLDER [KERNELS]`."""
    folder, kernels = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
    cloud = load_settings().cloud
    write_image_files(folder, cloud, head_versions(python_match_level()), kernels)


if __name__ == "__main__":
    main()
