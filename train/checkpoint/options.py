"""What a user says about checkpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from train.checkpoint.interval import PRIOR_MTBF_HOURS


class CheckpointOptions(BaseModel):
    """Where and how often a run is saved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    storage: str | None = Field(
        None,
        description="Folder, or s3://, gs:// or another URI that fsspec knows; unset: a folder of "
        "the state directory, which machines in the cloud cannot reach.",
    )
    every: PositiveInt | Literal["auto"] = Field(
        "auto", description="Optimizer steps from save to save; auto: from what a save costs."
    )
    keep: int = Field(2, ge=2, description="Checkpoints kept: should the newest be damaged.")
    mtbf_hours: float = Field(
        PRIOR_MTBF_HOURS,
        gt=0,
        allow_inf_nan=False,
        description="Hours between losses of a machine, as expected before any was seen.",
    )

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, colon, rest = value.partition(":")
        if not value.strip():
            raise ValueError("storage is empty; name a folder or a URI such as gs://bucket/run")
        # one letter is a drive
        if colon and len(scheme) > 1 and "/" not in scheme and not rest.startswith("//"):
            raise ValueError(f"storage is {value!r}; a URI has two slashes: {scheme}://bucket/run")
        return value
