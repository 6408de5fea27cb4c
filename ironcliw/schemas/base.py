"""What every form of the wire format shares.

Requests are validated strictly and refuse unknown fields; answers are written by `serve` as bytes
and documented by the models here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

Priority = Literal["critical", "high", "normal", "low"]
Scope = Literal["infer", "workflow", "admin"]
# Fail fast: collecting an error for each of a hundred thousand wrong items takes gigabytes.
Strings = Annotated[list[StrictStr], Field(fail_fast=True)]
Tokens = Annotated[list[StrictInt], Field(fail_fast=True)]


class Request(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """An answer's body; a newer server may say more."""

    model_config = ConfigDict(extra="allow")
