"""The `embedding` section of a run's configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator


class EmbeddingOptions(BaseModel):
    """How a model of vectors is trained; see `train.embedding.losses`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float = Field(
        0.05, gt=0, le=10, description="What cosines are divided by; less looks at the nearest."
    )
    matryoshka: tuple[int, ...] = Field(
        (),
        description="Shorter lengths that the first numbers of a vector shall be usable at, "
        "beside its whole length (arXiv 2205.13147).",
    )
    label_name_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="How often a labelled text is brought near to its label's name; else to "
        "another text of the label.",
    )

    @field_validator("matryoshka")
    @classmethod
    def _check_lengths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(length < 1 for length in value) or len(set(value)) < len(value):
            raise ValueError(
                f"matryoshka is {list(value)}; give each length once, from 1 on, such as [256, 64]"
            )
        return tuple(sorted(value, reverse=True))
