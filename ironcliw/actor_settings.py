"""The sections `actors` and `routing` of the settings."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from ironcliw.setting_sections import Section

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
# NAME, *.NAME or [IPv6], each with or without a port
_HOST = re.compile(
    r"(?:\*\.)?(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"
)
_OBJECT = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class ActorsSettings(Section):
    """Agents and workflows."""

    modules: tuple[str, ...] = Field(
        (), description="Python modules with functions that workflow steps may name."
    )
    max_running_steps: int = Field(
        256, ge=1, le=10_000, description="Steps of all workflows that run at once."
    )
    function_cpus: float = Field(
        0.25, gt=0, le=64, description="Share of a core that a function step books unless it says."
    )
    inline_bytes: int = Field(
        65_536,
        ge=1024,
        le=65_536,
        description="Results up to so many bytes of JSON stand in the store.",
    )
    result_bytes: int = Field(
        67_108_864, ge=1024, description="A step fails whose result has more bytes of JSON."
    )
    results_url: str | None = Field(
        None,
        description="Folder of larger results, any fsspec URL; unset: in the state directory.",
    )
    keep_days: float = Field(
        30.0,
        gt=0,
        description="Workflows that ended, and messages that are done, are forgotten after so many "
        "days, with their results and keys.",
    )
    http_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts that an http step may ask: NAME, *.NAME or NAME:PORT; without a port "
        "the scheme's own.",
    )
    http_private_hosts: tuple[str, ...] = Field(
        (),
        description="Those of them, in the same words, that may be at loopback and private "
        "addresses; link-local ones are refused always.",
    )
    http_response_bytes: int = Field(
        8_388_608, ge=1024, description="Largest answer that an http step reads."
    )

    @field_validator("modules")
    @classmethod
    def _check_modules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [name for name in value if not _DOTTED.fullmatch(name)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no module; write it as in `import my_package.steps`")
        return value

    @field_validator("http_hosts", "http_private_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [name for name in value if not _HOST.fullmatch(name)]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} is no host; write NAME, *.NAME, NAME:PORT or [IPV6]:PORT, without "
                "a scheme or a path"
            )
        return tuple(name.lower() for name in value)


class RoutingSettings(Section):
    """Where a step or an agent runs."""

    policy: str = Field("rl.policy:NumpyPolicy", description="RouterPolicy, by its dotted name.")
    log_decisions: bool = Field(True, description="Keep a row for each decision in the store.")
    keep_days: float = Field(30.0, gt=0, description="Decisions are dropped after so many days.")
    exploration: float = Field(
        0.03,
        ge=0,
        le=0.05,
        description="Share of a learned policy's decisions that try an option which costs a cent "
        "more at most; what promotion is decided by.",
    )

    @field_validator("policy")
    @classmethod
    def _check_policy(cls, value: str) -> str:
        if not _OBJECT.fullmatch(value):
            raise ValueError(f"{value!r} names no object; write MODULE:NAME")
        return value
