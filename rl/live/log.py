"""The decision log as values: decisions, what became of workflows, what happened to machines.

`ironcliw route log --out FILE` writes it as lines of JSON, one row a line, and `read_log` reads
such a file. What is damaged is refused with its line; rows of earlier releases are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from ironcliw.errors import DataError

FORMAT = 1
_DETAILS = frozenset(
    {"by", "chosen_by_policy", "context", "costs", "exploration", "option_features"}
    | {"shadow_chosen", "stage"}
)
"""That a decision with features tells of them."""


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """A decision; the fields are the columns of `actors_decisions`.

    Attributes:
        options: Names, such as `home` or `local`.
        mask: What was allowed.
        chosen: Into the options.
        outcome: Of the attempt; None: not known.
        details: What the policy told beside; None: nothing, or an earlier release wrote it.
    """

    id: str
    at: float
    policy: str
    chosen: int
    propensity: float
    options: tuple[str, ...]
    mask: tuple[bool, ...]
    workflow_id: str | None = None
    step: str | None = None
    attempt: int | None = None
    features: Mapping[str, float | None] = field(default_factory=dict)
    outcome: Mapping[str, Any] | None = None
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """A step of a workflow, or one item of a fan-out, as it ran.

    Attributes:
        target: A function's name; the kind where it has none.
        needs: Indices, in the workflow's list, of those that ended before it could start.
        memory_gb: As its author says; None: not said.
        started_at: Of its last attempt; None: it never ran.
        seconds: That it ran, waiting not included; None: not known.
        place: `local` or `spot`.
        losses: Attempts that were lost with their process or machine, or taken off it.
    """

    name: str
    kind: str
    target: str
    needs: tuple[int, ...]
    wanted: str = "any"
    memory_gb: float | None = None
    expected_seconds: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    seconds: float | None = None
    place: str = "local"
    node: str | None = None
    peak_gb: float | None = None
    losses: int = 0


@dataclass(frozen=True, slots=True)
class LoggedWorkflow:
    """A workflow; `priority` is 0 for critical to 3 for low.

    Attributes:
        paused_seconds: That its owner held it back.
    """

    id: str
    name: str
    created_at: float
    status: str
    priority: int
    steps: tuple[LoggedStep, ...]
    finished_at: float | None = None
    deadline: float | None = None
    paused_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LoggedFleet:
    """Machines within the log's time.

    Attributes:
        intervals: (begin, end) of each, Unix seconds, as they were paid for.
        losses: Taken back.
        boots: Seconds from order to joining.
        price_per_hour: USD of one.
        lost_at: Unix seconds of each loss; empty in files of earlier releases.
        joined_at: Of each start, likewise.
    """

    intervals: tuple[tuple[float, float], ...] = ()
    losses: int = 0
    boots: tuple[float, ...] = ()
    price_per_hour: float = 0.0
    lost_at: tuple[float, ...] = ()
    joined_at: tuple[float, ...] = ()

    @property
    def hours(self) -> float:
        """That machines ran."""
        return sum(end - begin for begin, end in self.intervals) / 3600.0

    def until(self, at: float) -> LoggedFleet:
        """What had happened by then; where times are not known, the hours' share of it."""
        intervals = tuple((begin, min(end, at)) for begin, end in self.intervals if begin < at)
        cut = replace(self, intervals=intervals)
        share = cut.hours / self.hours if self.hours > 0 else 0.0
        losses, boots = round(share * self.losses), self.boots[: round(share * len(self.boots))]
        lost = tuple(one for one in self.lost_at if one < at)
        if len(self.lost_at) == self.losses:
            losses = len(lost)
        if len(self.joined_at) == len(self.boots):
            times = zip(self.boots, self.joined_at, strict=True)
            boots = tuple(boot for boot, joined in times if joined < at)
        joined = tuple(one for one in self.joined_at if one < at)
        return replace(cut, losses=losses, boots=boots, lost_at=lost, joined_at=joined)


@dataclass(frozen=True, slots=True)
class Log:
    """All of it, oldest first."""

    decisions: tuple[LoggedDecision, ...] = ()
    workflows: tuple[LoggedWorkflow, ...] = ()
    fleet: LoggedFleet = LoggedFleet()

    def since(self, at: float) -> Log:
        """What began at that time or later; machines are kept whole."""
        return Log(
            tuple(one for one in self.decisions if one.at >= at),
            tuple(one for one in self.workflows if one.created_at >= at),
            self.fleet,
        )

    def until(self, at: float) -> Log:
        """What was known by then: nothing of it may say what came later."""
        return Log(
            tuple(one for one in self.decisions if one.at < at),
            tuple(one for one in self.workflows if (one.finished_at or math.inf) < at),
            self.fleet.until(at),
        )


def lines_of(log: Log) -> Iterator[str]:
    """Lines of JSON, without their ends."""
    yield _line("log", {"format": FORMAT})
    for one in log.decisions:
        yield _line("decision", asdict(one))
    for workflow in log.workflows:
        yield _line("workflow", asdict(workflow))
    yield _line("fleet", asdict(log.fleet))


def read_log(path: Path) -> Log:
    """A log from its file.

    Raises:
        DataError: the file cannot be read, is empty, or a line is damaged; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"decision log {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"decision log {path} is no UTF-8: {error}; write it again") from error
    return parse_log(text.splitlines(), str(path))


def parse_log(lines: Iterable[str], where: str) -> Log:
    """A log from its lines; raises as `read_log`."""
    decisions: list[LoggedDecision] = []
    workflows: list[LoggedWorkflow] = []
    fleet, count = LoggedFleet(), 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        count += 1
        row = _row(line, f"{where}:{number}")
        kind = row.pop("row", None)
        try:
            if kind == "decision":
                decisions.append(_decision(row))
            elif kind == "workflow":
                workflows.append(_workflow(row))
            elif kind == "fleet":
                fleet = _fleet(row)
            elif kind != "log":
                raise ValueError(f"a row of the kind {kind!r}; known are decision, workflow, fleet")
            elif row.get("format") != FORMAT:
                raise ValueError(f"format {row.get('format')!r}; this release reads {FORMAT}")
        except (KeyError, TypeError, ValueError) as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{where}:{number} is no row of a decision log: {what}; write the log again by "
                "`ironcliw route log --out FILE`"
            ) from error
    if not count:
        raise DataError(f"decision log {where} is empty; run some workflows with routing first")
    return Log(tuple(decisions), tuple(workflows), fleet)


def _line(kind: str, values: Mapping[str, Any]) -> str:
    return json.dumps({"row": kind, **values}, allow_nan=False, separators=(",", ":"))


def _row(line: str, where: str) -> dict[str, Any]:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"it holds {name}, which is no number")

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):  # such as 1e400
            refuse(text)
        return value

    try:
        row = json.loads(line, parse_constant=refuse, parse_float=number)
    except ValueError as error:
        raise DataError(
            f"{where} is damaged: {error}; write the log again by `ironcliw route log --out FILE`"
        ) from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is no row: {line[:40]!r}; each line is one object of JSON")
    return row


def _decision(row: Mapping[str, Any]) -> LoggedDecision:
    values = {name: row[name] for name in row.keys() & _names(LoggedDecision)}
    values["options"] = tuple(str(one) for one in row["options"])
    values["mask"] = tuple(bool(one) for one in row["mask"])
    found = LoggedDecision(**values)
    _finite(found.at, "at")
    if not 0 < found.propensity <= 1:
        raise ValueError(f"propensity {found.propensity!r} is no probability above 0")
    if found.details is not None:
        _check_details(found.details)
    if len(found.mask) != len(found.options) or not 0 <= found.chosen < len(found.options):
        raise ValueError(f"option {found.chosen} of {len(found.options)}, masks {len(found.mask)}")
    return found


def _check_details(details: Any) -> None:
    if not isinstance(details, dict):
        raise ValueError(f"details are {details!r}, which is no object")
    if "schema" in details and (missing := sorted(_DETAILS - set(details))):
        raise ValueError(f"details tell no {', '.join(missing)}")


def _workflow(row: Mapping[str, Any]) -> LoggedWorkflow:
    values = {name: row[name] for name in row.keys() & _names(LoggedWorkflow)}
    values["steps"] = tuple(_step(one, index) for index, one in enumerate(row["steps"]))
    found = LoggedWorkflow(**values)
    _finite(found.created_at, "created_at")
    for name in ("finished_at", "deadline"):
        if getattr(found, name) is not None:
            _finite(getattr(found, name), name)
    if type(found.priority) is not int or not 0 <= found.priority <= 3:
        raise ValueError(f"priority is {found.priority!r}; it is 0 for critical to 3 for low")
    return found


def _step(row: Mapping[str, Any], index: int) -> LoggedStep:
    values = {name: row[name] for name in row.keys() & _names(LoggedStep)}
    values["needs"] = tuple(int(one) for one in row["needs"])
    if any(not 0 <= one < index for one in values["needs"]):
        raise ValueError(f"step {index} needs {values['needs']}, which do not all come before it")
    found = LoggedStep(**values)
    for name in ("seconds", "started_at", "ended_at", "peak_gb", "memory_gb", "expected_seconds"):
        if getattr(found, name) is not None:
            _finite(getattr(found, name), name)
    return found


def _fleet(row: Mapping[str, Any]) -> LoggedFleet:
    intervals = tuple((float(begin), float(end)) for begin, end in row["intervals"])
    if any(not begin <= end for begin, end in intervals):
        raise ValueError("a machine ended before it began")
    boots = tuple(float(one) for one in row["boots"])
    lost, joined = (
        tuple(float(one) for one in row.get(name, ())) for name in ("lost_at", "joined_at")
    )
    price = float(row["price_per_hour"])
    return LoggedFleet(intervals, int(row["losses"]), boots, price, lost, joined)


def _finite(value: Any, name: str) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value!r}, which is no number from 0")


def _names(kind: Any) -> set[str]:
    return {one.name for one in fields(kind)}
