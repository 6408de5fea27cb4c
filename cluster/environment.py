"""What this machine is: an Apple-silicon Mac, a Compute Engine VM or another; and what it can do.

Facts come through `Probes`, so that any machine can be described on any other. Nothing here
imports torch: a GPU is found by `nvidia-smi`, or by being an Apple chip (MPS).
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import httpx
import psutil

GIBIBYTE = 2**30
# A "32 GB" VM shows 31.3 GiB to its programs: the kernel and the firmware keep the rest.
TRAINING_MEMORY_BYTES = 30 * GIBIBYTE
# The server answers in milliseconds where there is one; elsewhere nobody should wait for it.
METADATA_TIMEOUT_SECONDS = 0.5
_PROGRAM_TIMEOUT_SECONDS = 10.0
# https://cloud.google.com/compute/docs/instances/detect-compute-engine
_METADATA_HEADER = {"Metadata-Flavor": "Google"}
_DMI_PRODUCT = Path("/sys/class/dmi/id/product_name")
_GCE_PRODUCT = "Google Compute Engine"
_NVIDIA_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")


class MachineKind(StrEnum):
    """What a machine is to this project."""

    MAC = "apple-silicon-mac"
    GCE = "gcp-vm"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU; `memory_bytes` is None where it shares the machine's own memory."""

    backend: str
    name: str
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Environment:
    """A machine.

    Attributes:
        kind: What it is.
        system: `Darwin`, `Linux`, ... as Python names it.
        architecture: `arm64`, `x86_64`, ...
        chip: The processor's name, or the VM's machine type; empty where it is not known.
        cores: Logical cores.
        memory_bytes: Memory of the machine.
        gpus: Those that can compute.
        spot: Whether the cloud may take it back; None where it is no VM of GCP.
        zone: Of a VM, else empty.
    """

    kind: MachineKind
    system: str
    architecture: str
    chip: str
    cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    spot: bool | None = None
    zone: str = ""

    def describe(self) -> str:
        """One line for people."""
        size = f"{self.cores} cores, {self.memory_bytes / GIBIBYTE:.1f} GiB"
        words = [f"{self.kind} ({self.chip or self.architecture}), {size}"]
        words += [f"{gpu.backend}: {gpu.name}" for gpu in self.gpus]
        if self.spot is not None:
            words.append(("Spot" if self.spot else "regular") + f" in {self.zone}")
        return "; ".join(words)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a machine should be used for."""

    name: str
    trains: bool
    reason: str


INFERENCE_ONLY = "inference-only"
FULL_TRAINING = "full training"


def recommended_profile(environment: Environment) -> Profile:
    """What to run here: a 16 GB Mac serves, a machine with 32 GB trains as well."""
    memory = environment.memory_bytes / GIBIBYTE
    needed = TRAINING_MEMORY_BYTES / GIBIBYTE
    if environment.memory_bytes >= TRAINING_MEMORY_BYTES:
        return Profile(
            FULL_TRAINING, True, f"{memory:.1f} GiB of memory, at least {needed:.0f} needed"
        )
    return Profile(
        INFERENCE_ONLY, False, f"{memory:.1f} GiB of memory; training needs {needed:.0f}"
    )


@dataclass(frozen=True, slots=True)
class Probes:
    """Where facts come from; each answers None where there is nothing to learn.

    Attributes:
        system: The operating system's name.
        architecture: The processor's architecture.
        cores: Number of logical cores.
        memory_bytes: Memory of the machine.
        product: The name that the firmware gives the machine.
        output: What a program prints; takes the program and its arguments.
        metadata: A value of GCP's metadata server; takes a path such as `instance/zone`.
    """

    system: Callable[[], str]
    architecture: Callable[[], str]
    cores: Callable[[], int]
    memory_bytes: Callable[[], int]
    product: Callable[[], str | None]
    output: Callable[..., str | None]
    metadata: Callable[[str], str | None]


def detect(probes: Probes) -> Environment:
    """Describe the machine that the probes look at."""
    system, architecture = probes.system(), probes.architecture()
    kind, chip, spot, zone = MachineKind.OTHER, "", None, ""
    gpus = _nvidia_gpus(probes.output(*_NVIDIA_QUERY))
    if system == "Darwin":
        chip = (probes.output("sysctl", "-n", "machdep.cpu.brand_string") or "").strip()
        if architecture == "arm64":
            kind, gpus = MachineKind.MAC, (Gpu("mps", chip or "Apple"),)
    elif probes.product() in (_GCE_PRODUCT, None):
        # where the firmware says nothing (a container, a test bed) the server itself is asked
        preemptible = probes.metadata("instance/scheduling/preemptible")
        if preemptible is not None:
            kind, spot = MachineKind.GCE, preemptible.strip().upper() == "TRUE"
            zone = _last(probes.metadata("instance/zone"))
            chip = _last(probes.metadata("instance/machine-type"))
    return Environment(
        kind, system, architecture, chip, probes.cores(), probes.memory_bytes(), gpus, spot, zone
    )


def _last(path: str | None) -> str:
    """The name at the end of `projects/1/zones/us-central1-a`."""
    return (path or "").strip().rpartition("/")[2]


def _nvidia_gpus(listing: str | None) -> tuple[Gpu, ...]:
    """GPUs from lines such as `NVIDIA L4, 23034`; memory is in MiB."""
    gpus = []
    for line in (listing or "").splitlines():
        name, comma, memory = line.rpartition(",")
        if comma and memory.strip().isdigit():
            gpus.append(Gpu("cuda", name.strip(), int(memory) * 2**20))
    return tuple(gpus)


def this_machine(metadata_url: str) -> Probes:
    """Probes of the machine that this runs on.

    Args:
        metadata_url: The setting `cloud.metadata_url`.
    """
    return Probes(
        system=platform.system,
        architecture=platform.machine,
        cores=lambda: os.cpu_count() or 1,
        memory_bytes=lambda: int(psutil.virtual_memory().total),
        product=_product,
        output=program_output,
        metadata=lambda path: read_metadata(metadata_url, path),
    )


def _product() -> str | None:
    try:
        return _DMI_PRODUCT.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def program_output(*command: str) -> str | None:
    """Standard output of a program; None when it is absent, fails or hangs."""
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


def read_metadata(url: str, path: str) -> str | None:
    """A value of the metadata server; None when none answers, or another service does."""
    try:
        response = httpx.get(
            f"{url.rstrip('/')}/{path}",
            headers=_METADATA_HEADER,
            timeout=METADATA_TIMEOUT_SECONDS,
            trust_env=False,
        )
    except httpx.HTTPError:
        return None
    genuine = response.headers.get("Metadata-Flavor") == "Google"
    return response.text if genuine and response.status_code == 200 else None
