"""What a run says about its evaluation: which measures, how often, and which one decides."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Metric = Literal["exact_match", "decision_accuracy"]
GateMetric = Literal[
    "eval_loss",
    "exact_match",
    "decision_accuracy",
    "preference_accuracy",
    "retrieval_accuracy",
    "prototype_accuracy",
]
EMBEDDING_MEASURES = frozenset({"retrieval_accuracy", "prototype_accuracy"})


class EvaluationOptions(BaseModel):
    """What is measured on rows that are not trained on. Loss and perplexity always are."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    every_epochs: int = Field(
        1, ge=0, description="Epochs from one evaluation to the next; 0: end only."
    )
    max_rows: int = Field(200, ge=1, description="Rows that are read at most.")
    metrics: tuple[Metric, ...] = Field(
        (),
        description="What is measured besides: `exact_match`, the share of rows whose last answer "
        "is what the model would write; `decision_accuracy`, of those whose last answer is the "
        "label that the model holds for the likeliest.",
    )
    match: Literal["exact", "last_number", "regex"] = Field(
        "exact",
        description="What has to be equal: every token of the answer, its end included; or, of a "
        "generated answer, its last number, or what `pattern` finds.",
    )
    pattern: str | None = Field(
        None, description="Of `match: regex`; its first group, or all of it, at its last place."
    )
    max_new_tokens: int = Field(
        256, ge=1, description="Most tokens of a generated answer; `exact` generates none."
    )
    labels: tuple[str, ...] | Literal["data"] = Field(
        "data", description="Answers to choose from; `data`: all last answers of the data."
    )
    gate: GateMetric = Field(
        "eval_loss", description="The measure that must not be worse than the base's to publish."
    )
    gate_tolerance: float = Field(
        0.0, ge=0, description="How much worse it may be, in the measure's own unit."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.match == "regex") != (self.pattern is not None):
            raise ValueError(
                f"match is {self.match!r} and pattern is {self.pattern!r}: a pattern belongs to "
                "match: regex, and to nothing else"
            )
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(
                    f"pattern is {self.pattern!r}, which is no regular expression ({error})"
                ) from error
        measured = {"eval_loss", "preference_accuracy", *EMBEDDING_MEASURES, *self.metrics}
        if self.gate not in measured:
            raise ValueError(
                f"gate is {self.gate!r}, which is not measured; add it to metrics, or set gate to "
                "'eval_loss'"
            )
        if self.labels != "data" and len(set(self.labels)) < 2:
            raise ValueError(f"labels is {list(self.labels)}; a decision has two labels at least")
        return self

    @property
    def generates(self) -> bool:
        """Whether answers have to be generated."""
        return "exact_match" in self.metrics and self.match != "exact"
