"""What goes wrong in a fake cloud, and when, as plain values.

A fault begins `at` seconds after the world began or, with `when`, after an event: the `count`-th of
its kind that matches `zone` and `name`. It lasts `seconds`, or until it was applied `times` times.
`zone` and `name` are patterns as in a shell. A script can be a TOML or JSON file:

    [[fault]]
    kind = "stockout"
    zone = "us-central1-a"
    seconds = 60

    [[fault]]
    kind = "preempt"
    when = "running"
    at = 5
    notice = 30
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ironcliw.errors import SettingsError

EventKind = Literal[
    "insert",  # an insert was received; nothing has happened yet
    "created",  # its VM exists, the reply is not sent
    "answered",  # the reply of an insert or a delete is sent (or lost)
    "refused",  # the operation of an insert was set to fail
    "staging",
    "running",
    "notice",  # the metadata server says that the VM is preempted
    "preempted",
    "stopping",
    "power_off",  # the guest turned its power off
    "terminated",
    "deleted",
]

_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Fault:
    """What all faults have."""

    at: Annotated[float, Field(ge=0)] = 0.0
    when: EventKind | None = None
    count: Annotated[int, Field(ge=1)] = 1
    seconds: Annotated[float, Field(gt=0)] = math.inf
    times: Annotated[int | None, Field(ge=1)] = None
    zone: str = "*"
    name: str = "*"

    def matches(self, zone: str, name: str) -> bool:
        """Whether it acts on a zone and name; an empty one, as of a project, matches always."""
        return (not zone or fnmatchcase(zone, self.zone)) and (
            not name or fnmatchcase(name, self.name)
        )


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Stockout(Fault):
    """No capacity: the insert's operation fails late.

    `hint` are the zones that Google names instead: by default all of the region without a
    stock-out. An empty one gives the older error code, which names none.
    """

    kind: Literal["stockout"] = "stockout"
    hint: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class QuotaExceeded(Fault):
    """The region's quota is used up, whatever the catalogue says."""

    kind: Literal["quota"] = "quota"
    metric: str = "PREEMPTIBLE_CPUS"
    limit: float = 0.0


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class RateLimited(Fault):
    """Too many writes: refused at once with 403, or by the operation when `late`."""

    kind: Literal["rate"] = "rate"
    late: bool = False


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class OperationFails(Fault):
    """The insert's operation fails with any code of Google's."""

    kind: Literal["operation_fails"] = "operation_fails"
    code: str
    message: str = "The operation failed."
    status: int = 400


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class RejectedField(Fault):
    """An insert that has this field is answered 400, as in a project without the feature."""

    kind: Literal["rejected_field"] = "rejected_field"
    field: str = "scheduling.preemptionNoticeDuration"


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class SlowBoot(Fault):
    """A new VM needs `extra` seconds more, to get a machine or to start its guest."""

    kind: Literal["slow_boot"] = "slow_boot"
    extra: Annotated[float, Field(gt=0)]
    stage: Literal["provisioning", "guest"] = "guest"


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Preempt(Fault):
    """Google takes VMs back: those of the pattern, or the one of the event.

    `notice` is the time from the metadata server's word until the power is off; 0: no word at all.
    By default it is what the VM asked for, or 30 s. Without a pattern and an event, all Spot VMs.
    """

    kind: Literal["preempt"] = "preempt"
    notice: Annotated[float | None, Field(ge=0)] = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class CutLink(Fault):
    """A VM's network is gone, though it runs. Obeyed by VMs that have a network of their own."""

    kind: Literal["cut_link"] = "cut_link"


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class ApiStorm(Fault):
    """Every request, or those of some verbs, is answered with a server error."""

    kind: Literal["api_storm"] = "api_storm"
    status: Annotated[int, Field(ge=400, le=599)] = 503
    verbs: tuple[str, ...] = ("GET", "POST", "DELETE")


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class LostReply(Fault):
    """A request is carried out, and the connection ends without an answer."""

    kind: Literal["lost_reply"] = "lost_reply"
    verb: str = "POST"
    path: str = "*/instances"


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Denied(Fault):
    """401 (the credentials are not good) or 403 (the account may not do it)."""

    kind: Literal["denied"] = "denied"
    status: Literal[401, 403] = 403


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class UnreachableZone(Fault):
    """Lists across zones fail with 503; when `partial`, they leave it out with a warning."""

    kind: Literal["unreachable_zone"] = "unreachable_zone"
    partial: bool = False


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class ClockSkew(Fault):
    """Google's clock is ahead of ours by so many seconds, or behind when negative."""

    kind: Literal["clock_skew"] = "clock_skew"
    by: float


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Hook(Fault):
    """The test's own act, e.g. the crash of a head: `world.hooks[label]` is called."""

    kind: Literal["hook"] = "hook"
    label: str


AnyFault = (
    Stockout
    | QuotaExceeded
    | RateLimited
    | OperationFails
    | RejectedField
    | SlowBoot
    | Preempt
    | CutLink
    | ApiStorm
    | LostReply
    | Denied
    | UnreachableZone
    | ClockSkew
    | Hook
)

_FAULTS: TypeAdapter[tuple[AnyFault, ...]] = TypeAdapter(
    tuple[Annotated[AnyFault, Field(discriminator="kind")], ...]
)


def parse_faults(faults: Iterable[Mapping[str, Any]], source: str = "faults") -> tuple[Fault, ...]:
    """Faults from plain mappings, each with its `kind`.

    Raises:
        SettingsError: A kind or field is unknown, or a value is out of range.
    """
    try:
        return _FAULTS.validate_python([dict(fault) for fault in faults])
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            place = ".".join(str(part) for part in problem["loc"])
            lines.append(f"fault {place}: {problem['msg']}")
        raise SettingsError(f"{source} has faults that are none: " + "; ".join(lines)) from None


def load_faults(path: Path) -> tuple[Fault, ...]:
    """Faults from a `.toml` file with `[[fault]]` tables or a `.json` file with a `fault` list.

    Raises:
        SettingsError: The file cannot be read or says something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the faults of {path}: {error}") from error
    faults = table.get("fault") if isinstance(table, dict) else None
    if not isinstance(faults, list) or set(table) != {"fault"}:
        raise SettingsError(f"{path} must hold [[fault]] tables and nothing else")
    return parse_faults(faults, str(path))
