"""What is done to a run of training, and what is told of it afterwards: between two processes as
JSON texts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["kill worker", "kill node", "notice"]


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that is done to a run.

    Attributes:
        kind: What.
        after: Steps that are done before; it comes somewhere in the step that follows.
    """

    kind: Kind
    after: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A run and what is done to it.

    Attributes:
        model: Id or folder.
        data: Folder of the benchmark texts.
        workers: Of the run.
        nodes: Raylets that workers may run on; those that are lost included.
        steps: Optimizer steps.
        every: Steps from save to save.
        blows: In order.
        batch_size: Rows of a step.
        micro_batch_tokens: Tokens computed at a time.
        seed: Of the moments at which they come.
    """

    model: str
    data: str
    workers: int
    nodes: int
    steps: int
    every: int
    blows: tuple[Blow, ...]
    batch_size: int = 8
    micro_batch_tokens: int = 1024
    seed: int = 0

    @classmethod
    def of(cls, text: str) -> Plan:
        """The plan in what a process was given."""
        given = json.loads(text)
        return cls(**{**given, "blows": tuple(Blow(**each) for each in given["blows"])})


@dataclass(frozen=True, slots=True)
class Done:
    """A blow that was struck.

    Attributes:
        kind: What.
        at: When, Unix time.
        step: Optimizer steps that had been reported.
        saved_at: When all workers that were told had said that all is saved; of a notice.
    """

    kind: Kind
    at: float
    step: int
    saved_at: float | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """A step that the run told of: its number, when that was heard, and how long it took."""

    step: int
    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log: Unix time, and the message."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Story:
    """All that happened in a run."""

    done: tuple[Done, ...]
    reports: tuple[Reported, ...]
    lines: tuple[Line, ...]

    @classmethod
    def of(cls, text: str) -> Story:
        """What a process printed."""
        given = json.loads(text)
        return cls(
            tuple(Done(**each) for each in given["done"]),
            tuple(Reported(**each) for each in given["reports"]),
            tuple(Line(**each) for each in given["lines"]),
        )


def log_lines(folder: Path) -> list[Line]:
    """What Ray Train's controller and the workers wrote, in order of time."""
    found = []
    for path in sorted(folder.glob("ray-train-*.log")):
        for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(raw)
                found.append(Line(int(line["timestamp_ns"]) / 1e9, str(line["message"])))
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a process that was killed
    return sorted(found, key=lambda line: line.at)


def message_pattern(message: str) -> re.Pattern[str]:
    """What finds a message of logging's in a log; its numbers are groups."""
    escaped = re.escape(message).replace("%d", r"(\d+)").replace("%s", ".*")
    return re.compile(f"^{escaped}$")
