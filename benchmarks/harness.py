"""What every benchmark theme shares: samples, goals, rows, interleaving and the options of a run.

Only ratios taken in one run count, since machines differ and drift: contestants are measured in
alternation, round by round, and a figure is the median over the rounds with its range.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ironcliw.errors import IroncliwError
from ironcliw.settings import process_environment

Result = TypeVar("Result")
Name = TypeVar("Name", bound=Hashable)
# What an e2 worker may have; read by ATen, oneDNN and MKL when torch is first imported, and by us.
CAPS: Mapping[str, Mapping[str, str]] = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "IRONCLIW_CPU_CAPABILITY": "avx2",
    }
}


class BenchmarkError(IroncliwError):
    """A benchmark could not be taken; nothing is reported in its place."""


@dataclasses.dataclass(frozen=True, slots=True)
class NotRun:
    """Stands where a figure would, with the reason why there is none."""

    reason: str

    def __str__(self) -> str:
        return f"not run: {self.reason}"


@dataclasses.dataclass(frozen=True, slots=True)
class Samples:
    """One figure measured once a round.

    Raises:
        ValueError: there is no value.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("samples need at least one value; measure at least one round")

    @classmethod
    def of(cls, values: Iterable[float]) -> Samples:
        """Samples of any iterable of numbers."""
        return cls(tuple(float(value) for value in values))

    @property
    def median(self) -> float:
        """The reported figure."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values)


Figure = Samples | NotRun


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """A bound on our figure, or on its ratio to the row's first peer.

    Attributes:
        bound: The number to keep.
        at_most: Whether smaller is better.
        relative: Whether the bound is on ours / peer instead of ours.
    """

    bound: float
    at_most: bool = False
    relative: bool = False

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        if not self.relative:
            return f"{sign} {self.bound:,g}"
        inverse = 1 / self.bound
        if inverse > 1 and abs(inverse - round(inverse)) < 1e-9:
            return f"{sign} 1/{round(inverse)}"
        return f"{sign} {self.bound:g}x"

    def met(self, value: float) -> bool:
        """Whether a figure (or ratio) keeps the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of a result.

    Attributes:
        theme: The theme's name.
        name: What was measured.
        unit: Unit of `ours` and of every peer.
        ours: Our figure.
        peers: Figures to compare with; the ratio and a relative goal are against the first.
        goal: What we set out to reach; None for information only.
        note: A condition that the reader must know.
    """

    theme: str
    name: str
    unit: str
    ours: Figure
    peers: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Median of ours over the median of the first peer; None without either."""
        peer = next(iter(self.peers.values()), None)
        if not isinstance(self.ours, Samples) or not isinstance(peer, Samples):
            return None
        return self.ours.median / peer.median if peer.median else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; a goal that could not be measured is not met."""
        if self.goal is None:
            return None
        if self.goal.relative:
            return self.ratio is not None and self.goal.met(self.ratio)
        return isinstance(self.ours, Samples) and self.goal.met(self.ours.median)

    def as_json(self) -> dict[str, Any]:
        """The row for programs; a figure that is missing is a string that says why."""
        return {
            "theme": self.theme,
            "name": self.name,
            "unit": self.unit,
            "ours": _plain(self.ours),
            "peers": {name: _plain(figure) for name, figure in self.peers.items()},
            "ratio": self.ratio,
            "goal": None if self.goal is None else str(self.goal),
            "met": self.met,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How a theme is run.

    Attributes:
        data: Folder of the benchmark texts.
        model: Folder of the embedding model that every contestant loads.
        quick: Fewer texts and seconds: the whole theme in under two minutes.
        rounds: Rounds of alternation; None lets the theme choose.
        cap: Name of a cap on the instruction set, or None.
        threads: Compute threads of each contestant.
        seed: Seed of every choice of texts and of arrival times.
        parts: What of the theme is measured, where it has parts; none: all.
    """

    data: Path
    model: Path
    quick: bool = False
    rounds: int | None = None
    cap: str | None = None
    threads: int = 1
    seed: int = 0
    parts: tuple[str, ...] = ()

    def child_environment(self, **changes: str) -> dict[str, str]:
        """Environment of a contestant's process: the cap, the threads and no network."""
        threads = str(self.threads)
        shared = {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "true",
            **(CAPS[self.cap] if self.cap else {}),
        }
        return process_environment(**{**shared, **changes})


@dataclasses.dataclass(frozen=True, slots=True)
class ThemeResult:
    """What a theme hands back: its rows, and remarks on how they were taken."""

    rows: list[Row]
    remarks: list[str] = dataclasses.field(default_factory=list)

    @property
    def missed(self) -> list[Row]:
        """Rows whose goal is not met."""
        return [row for row in self.rows if row.met is False]


def interleave(
    contestants: Mapping[Name, Callable[[], Result]], rounds: int
) -> dict[Name, list[Result]]:
    """Measure each contestant once a round; every second round runs in reverse order.

    Reversing cancels what a contestant leaves to the next (a warm package, a full cache).
    """
    results: dict[Name, list[Result]] = {name: [] for name in contestants}
    order = list(contestants)
    for index in range(rounds):
        for name in order if index % 2 == 0 else reversed(order):
            results[name].append(contestants[name]())
    return results


def positive(text: str) -> int:
    """An argument that is a count.

    Raises:
        argparse.ArgumentTypeError: it is below 1; argparse says so.
        ValueError: it is no integer; the same.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values, or the share is outside (0, 1].
    """
    ordered = sorted(values)
    if not ordered or not 0 < share <= 1:
        raise ValueError(f"no percentile {share} of {len(ordered)} values; need 0 < share <= 1")
    rank = -(-len(ordered) * share // 1)
    return ordered[max(0, int(rank) - 1)]


def _plain(figure: Figure) -> float | str:
    return figure.median if isinstance(figure, Samples) else str(figure)
