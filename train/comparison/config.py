"""What `ironcliw train eval` is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train.config import Precision
from train.config_file import read_mapping, validated
from train.data.options import DataOptions
from train.evaluation.options import EvaluationOptions
from train.quantization import Quantization

BASE = "base"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")


class Suite(BaseModel):
    """Rows, and what is measured on them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=_NAME.pattern, description="In the report.")
    data: DataOptions = Field(description="`train` names the files; none of them is trained on.")
    evaluation: EvaluationOptions = Field(
        default_factory=EvaluationOptions,
        description="Measures besides loss and perplexity, and `max_rows`; of preferences the "
        "accuracy always is measured.",
    )

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if not self.data.train:
            raise ValueError(f"suite {self.name!r} has no files; name them in data.train")
        if self.data.eval or self.data.eval_share:
            raise ValueError(
                f"suite {self.name!r} holds rows out (data.eval or data.eval_share), and all of "
                "its rows are measured on; name in data.train those alone that are"
            )
        return self


class ComparisonConfig(BaseModel):
    """A base, adapters of it, and suites."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    name: str = Field(
        "comparison",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="Of the report's folder, below `eval` of the state directory.",
    )
    model_name: str = Field(min_length=1, description="Catalogue id, folder or GGUF file.")
    adapters: dict[str, str] = Field(
        default_factory=dict,
        description="What the report calls each, and where it is: a run, an adapter's folder, or "
        "its name in the register.",
    )
    suites: tuple[Suite, ...] = Field(min_length=1)
    output: str = Field("", description="Folder of the report; empty: below the state directory.")
    precision: Precision = "auto"
    quantization: Quantization | None = Field(None, description="How the base's weights are held.")
    micro_batch_tokens: int = Field(2048, ge=16, description="Tokens computed at a time.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [suite.name for suite in self.suites]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two suites are called {twice[0]!r}; give each a name of its own")
        for name in self.adapters:
            # peft makes it part of the names of modules
            if not _NAME.fullmatch(name) or name == BASE:
                raise ValueError(
                    f"adapters has the name {name!r}; use up to 63 letters, digits, '_' and '-', "
                    f"and not {BASE!r}"
                )
        return self

    @property
    def candidates(self) -> tuple[str, ...]:
        """Everything that is measured, the base first."""
        return (BASE, *self.adapters)


def read_comparison(path: Path, changes: Mapping[str, Any] | None = None) -> ComparisonConfig:
    """Of a YAML file.

    Raises:
        SettingsError: as `train.config.read_config`.
    """
    return validated(ComparisonConfig, read_mapping(path, changes), str(path))
