"""The `preference` section of a run's configuration."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

LossName = Literal["sigmoid", "cdpo", "robust", "ipo", "hinge", "sigmoid_norm", "simpo"]
LOSSES: tuple[LossName, ...] = get_args(LossName)
WITHOUT_REFERENCE: frozenset[LossName] = frozenset({"simpo"})
SMOOTHED: frozenset[LossName] = frozenset({"cdpo", "robust"})


class PreferenceOptions(BaseModel):
    """How a model is trained on preferences; see `train.preference.losses`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    loss: LossName = "sigmoid"
    beta: float = Field(
        0.1, gt=0, description="How strongly the model is held to the reference; some 2 for simpo."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of pairs the wrong way round, of cdpo and robust."
    )
    gamma: float = Field(0.0, ge=0, description="Margin that simpo asks for.")
    reference: Literal["auto", "model", "precomputed"] = Field(
        "auto",
        description="`model`: computed in each step by the model without its adapters. "
        "`precomputed`: once before the first step, and kept; `auto`: by what is less work.",
    )
    reference_cache: str = Field(
        "",
        description="Folder or URI where precomputed log-probabilities are kept for other runs on "
        "the same model and data; empty: the run's own folder.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.loss in SMOOTHED and not self.label_smoothing:
            raise ValueError(
                f"loss is {self.loss!r} and label_smoothing 0, which makes it 'sigmoid'; give "
                "label_smoothing, such as 0.1"
            )
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing:g} and loss {self.loss!r}, which has "
                f"none; choose {' or '.join(sorted(SMOOTHED))}"
            )
        if self.gamma and self.loss != "simpo":
            raise ValueError(
                f"gamma is {self.gamma:g} and loss {self.loss!r}; only simpo has a gamma"
            )
        if self.loss in WITHOUT_REFERENCE and (self.reference != "auto" or self.reference_cache):
            raise ValueError(f"loss {self.loss!r} has no reference; leave reference out")
        if self.reference == "model" and self.reference_cache:
            raise ValueError(
                f"reference is 'model', which keeps nothing, and reference_cache is "
                f"{self.reference_cache!r}; set reference to 'precomputed', or leave the cache out"
            )
        return self

    def numbers(self) -> dict[str, Any]:
        """What changes the numbers of a run: that values are kept does, where they lie does not."""
        dumped = self.model_dump(mode="json")
        if self.reference_cache:
            # empty, not absent: so are those of runs without one from the releases before
            dumped |= {"reference": "precomputed", "reference_cache": ""}
        return dumped
