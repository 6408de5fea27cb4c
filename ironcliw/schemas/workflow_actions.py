"""What is asked of a workflow's step."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictInt

from ironcliw.schemas.base import Request


class RetryRequest(Request):
    """`POST /v1/workflows/{id}/steps/{step}/retry`."""

    item: Annotated[StrictInt, Field(ge=0)] | None = Field(
        None, description="Which item of a fan-out; left out: the step, or all its uncertain items."
    )


class SkipRequest(RetryRequest):
    """`POST /v1/workflows/{id}/steps/{step}/skip`."""

    value: Any = Field(None, description="What the step counts as having given.")
