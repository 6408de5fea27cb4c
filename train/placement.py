"""Where a run's workers go: this machine, or Spot machines."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cluster.environment import MachineKind, detect, recommended_profile, this_machine
from cluster.machines import machine_type
from ironcliw.errors import SettingsError
from ironcliw.settings import Settings
from train.config import TrainingConfig
from train.run_files import RunFiles

SPOT_LABEL = {"ray.io/market-type": "spot"}


@dataclass(frozen=True, slots=True)
class Place:
    """What Ray is asked for.

    Attributes:
        threads: Of each worker, and the cores that it is given.
        use_gpu: Whether each worker has a GPU.
        labels: That its node must have.
    """

    threads: int
    use_gpu: bool = False
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def resources(self) -> dict[str, float]:
        """Of each worker."""
        return {"CPU": float(self.threads)}

    @property
    def collectives(self) -> str:
        """The library that the workers meet through: gradients on GPUs stay there."""
        return "nccl" if self.use_gpu else "gloo"

    @property
    def is_remote(self) -> bool:
        """Whether workers run on other machines than this one."""
        return bool(self.labels)


def choose_place(config: TrainingConfig, settings: Settings) -> Place:
    """Spot machines where this one is kept for inference, else here.

    Raises:
        SettingsError: this machine is kept for inference and there is no cloud, or the placement
            that was asked for is not to be had.
    """
    has_cloud = settings.cloud.project is not None
    if config.placement == "spot" and not has_cloud:
        raise SettingsError(
            "placement is 'spot' and no cloud is set up; set cloud.project (see `ironcliw doctor`)"
        )
    here = detect(this_machine(settings.cloud.metadata_url))
    on_spot = config.placement == "spot"
    if config.placement == "auto" and not config.allow_local:
        kept = not recommended_profile(here).trains
        # a small Linux machine without a cloud is all that there is: memory is checked before
        on_spot = kept and (has_cloud or here.kind is MachineKind.MAC)
        if on_spot and not has_cloud:
            raise SettingsError(
                f"this machine ({here.describe()}) is kept for inference, and no cloud is set up; "
                "set cloud.project to train on Spot machines, or allow_local to train here"
            )
    if on_spot:
        return Place(machine_type(settings.cloud.machine_type).cpus, labels=dict(SPOT_LABEL))
    gpus = any(gpu.backend == "cuda" for gpu in here.gpus)
    return Place(max(1, cores_here() // config.workers), use_gpu=gpus)


def check_storage(place: Place, files: RunFiles, key: str = "checkpoint.storage") -> None:
    """See that the workers can reach what they are to write.

    Args:
        place: Of the workers.
        files: Of the run or the sweep.
        key: That names the storage, for the message.

    Raises:
        SettingsError: they are on other machines, and the storage is a folder of this one.
    """
    if place.is_remote and files.is_local:
        raise SettingsError(
            f"the run is placed on machines in the cloud, which cannot reach {files.uri}; set "
            f"{key} to a bucket, such as gs://BUCKET/runs/NAME"
        )


def check_reference(place: Place, config: TrainingConfig) -> None:
    """See that the workers can reach what a run's reference is kept in.

    Raises:
        SettingsError: as `check_storage`.
        CheckpointError: it can be no folder.
    """
    if config.preference is not None and config.preference.reference_cache:
        cache = RunFiles(config.preference.reference_cache)
        check_storage(place, cache, "preference.reference_cache")


def cores_here() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
