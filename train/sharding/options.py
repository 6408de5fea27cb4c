"""What a user says about sharding."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ShardingOptions(BaseModel):
    """Whether each worker holds the whole model, or a piece of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["none", "fsdp"] = Field(
        "none",
        description="fsdp: weights, gradients and optimizer are spread over the workers, which "
        "gather a layer when they compute it.",
    )
    reshard_after_forward: bool = Field(
        True,
        description="Give a layer's gathered weights up after its forward pass and gather them "
        "again for the backward pass: less memory, more messages.",
    )

    @property
    def is_on(self) -> bool:
        """Whether the model is in pieces."""
        return self.mode != "none"
