"""What a run says about its data: which files, in which form, and what is left out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

FormatName = Literal[
    "sharegpt_preference",
    "preference",
    "messages",
    "sharegpt",
    "alpaca",
    "prompt_completion",
    "text",
]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
"""Files, folders, patterns such as `data/*.jsonl`, or URIs such as `gs://bucket/train.parquet`."""


class _Section(BaseModel):
    """Refuses names that it does not know: a typo must not pass in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class QualityFilters(_Section):
    """Rows that are left out although nothing is wrong with them; each is counted."""

    min_answer_tokens: int = Field(
        1, ge=1, description="Fewest supervised tokens of a row, its end of turn included."
    )
    max_answer_tokens: int | None = Field(
        None, ge=1, description="Most supervised tokens of a row; unset: no limit."
    )
    max_repeated_lines: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Largest share of the answers' lines that stand in the row before; "
        "1: no limit.",
    )

    @model_validator(mode="after")
    def _check_range(self) -> QualityFilters:
        if self.max_answer_tokens is not None and self.max_answer_tokens < self.min_answer_tokens:
            raise ValueError(
                f"max_answer_tokens is {self.max_answer_tokens}, less than min_answer_tokens, "
                f"{self.min_answer_tokens}; no row would be left"
            )
        return self


class DataOptions(_Section):
    """The `data` section of a run's configuration."""

    train: Paths = Field((), description="What is trained on.")
    eval: Paths = Field((), description="What is held out, from files of its own.")
    eval_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the rows of `train` that is held out, chosen by a hash of their "
        "content, of preferences of the prompt: a row stays on its side when others are added.",
    )
    format: Literal["auto", FormatName] = Field(
        "auto", description="Form of the rows; `auto`: by the keys that they have."
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Our key to the file's, e.g. `{prompt: question, completion: answer}`.",
    )
    max_length: int = Field(1024, ge=2, description="Most tokens of a row.")
    over_length: Literal["drop", "truncate", "error"] = Field(
        "drop",
        description="What becomes of a longer row. `drop`, the default, since a row that is cut "
        "teaches the model not to end its answer; the number of rows is always reported.",
    )
    invalid_rows: Literal["error", "drop"] = Field(
        "error", description="What becomes of a row that is broken; `drop` counts it and goes on."
    )
    deduplicate: bool = Field(
        False,
        description="Keep the first of rows that are equal but for white space, and none of those "
        "that are held out too; their number is reported in any case.",
    )
    filters: QualityFilters = Field(
        default_factory=QualityFilters, description="Rows to leave out for their quality."
    )
    train_on: Literal["all", "last"] = Field(
        "all", description="Which of the assistant's turns are supervised."
    )
    plain_text: bool = Field(
        False,
        description="Join prompt and completion as they are although the model has a chat "
        "template; without a template that is done in any case.",
    )
    chat_template: str | None = Field(
        None, description="In place of the model's own: a file NAME.jinja, or the Jinja itself."
    )

    @model_validator(mode="after")
    def _check(self) -> DataOptions:
        if self.eval and self.eval_share:
            raise ValueError(
                f"eval names files and eval_share is {self.eval_share:g}; give one of the two"
            )
        if self.filters.min_answer_tokens >= self.max_length:
            raise ValueError(
                f"filters.min_answer_tokens is {self.filters.min_answer_tokens} and max_length "
                f"{self.max_length}; no row can have both"
            )
        return self
