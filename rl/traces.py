"""Real traces of the data folder: arrivals, answer lengths and shapes of workflows.

Each trace is cut by time (arrivals) or by name (shapes) into parts for training, validation and
tests, so that nothing a policy was tuned on is in what it is tested on. Sources and licences are in
the data folder's README; the files are not part of the project.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

from ironcliw.errors import DataError

Split = Literal["train", "validation", "test"]
# of the time, or of the names: the first 60 % train, and so on
PARTS: dict[Split, tuple[float, float]] = {
    "train": (0.0, 0.6),
    "validation": (0.6, 0.8),
    "test": (0.8, 1.0),
}
ARRIVALS = {
    "azure_code": "llm/AzureLLMInferenceTrace_code.csv",
    "azure_conv": "llm/AzureLLMInferenceTrace_conv.csv",
    "mooncake": "llm/mooncake_conversation.csv",
}
GRAPHS = "dag/wfinstances_tasks.csv.gz"
LARGEST_GRAPH = 24
# A model of some billion parameters at home, ours: tokens a second read and written.
READ_RATE, WRITE_RATE = 300.0, 12.0

Graph = tuple[tuple[tuple[int, ...], float], ...]  # of each task: parents, seconds


@dataclass(frozen=True, slots=True)
class Traces:
    """One part of the traces.

    Attributes:
        gaps: Seconds between requests, in order.
        answers: Seconds of each request's answer at home.
        graphs: Shapes, of at most LARGEST_GRAPH tasks each.
    """

    gaps: tuple[float, ...]
    answers: tuple[float, ...]
    graphs: tuple[Graph, ...]

    def answer_seconds(self, uniform: float) -> float:
        """A request's answer, chosen by a number between 0 and 1."""
        return self.answers[int(uniform * len(self.answers))]

    def graph(self, uniform: float) -> Graph:
        """A shape, chosen by a number between 0 and 1."""
        return self.graphs[int(uniform * len(self.graphs))]


@cache
def load_traces(folder: Path, source: str, split: Split) -> Traces:
    """A part of the traces; the arrivals of `sessions` and `poisson` are those of azure_conv.

    Raises:
        DataError: a file is absent or not what the data folder's README says.
    """
    rows = _requests(folder / ARRIVALS.get(source, ARRIVALS["azure_conv"]))
    low, high = (int(share * len(rows)) for share in PARTS[split])
    part = rows[low:high]
    gaps = tuple(later[0] - earlier[0] for earlier, later in pairwise(part))
    answers = tuple(read / READ_RATE + written / WRITE_RATE for _, read, written in part)
    return Traces(gaps, answers, _graphs(folder / GRAPHS, split))


@cache
def digest_of(folder: Path, source: str) -> str:
    """SHA-256 of the files that `load_traces` reads.

    Raises:
        DataError: a file is absent.
    """
    found = hashlib.sha256()
    for name in (ARRIVALS.get(source, ARRIVALS["azure_conv"]), GRAPHS):
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise _absent(folder / name) from error
        found.update(f"{name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def _requests(path: Path) -> list[tuple[float, float, float]]:
    """(seconds, tokens read, tokens written) of each request, ordered by time."""
    rows: list[tuple[float, float, float]] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            next(lines, None)
            for row in lines:
                rows.append((_seconds(row[0]), float(row[1]), float(row[2])))
    except OSError as error:
        raise _absent(path) from error
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{path}, line {lines.line_num}: {row} is not time, tokens, tokens"
        ) from error
    if len(rows) < 100:
        raise DataError(f"{path} has {len(rows)} requests; at least 100 are needed")
    return sorted(rows)


def _seconds(text: str) -> float:
    if ":" not in text:
        return float(text) / 1000  # milliseconds
    whole, _, fraction = text.partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def _graphs(path: Path, split: Split) -> tuple[Graph, ...]:
    tasks: dict[str, list[tuple[int, tuple[int, ...], float]]] = {}
    try:
        with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                parents = tuple(int(part) for part in row["parents"].split())
                tasks.setdefault(row["workflow"], []).append(
                    (int(row["task"]), parents, float(row["runtime_s"] or 1.0))
                )
    except OSError as error:
        raise _absent(path) from error
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} is not a table of WfInstances' tasks: {error}") from error
    low, high = PARTS[split]
    graphs = tuple(
        _head_of(found)
        for name, found in sorted(tasks.items())
        if low <= hashlib.sha256(name.encode()).digest()[0] / 256 < high
    )
    if not graphs:
        raise DataError(f"{path} has no workflow for {split}; fetch the data again")
    return graphs


def _head_of(tasks: Sequence[tuple[int, tuple[int, ...], float]]) -> Graph:
    """The first tasks in an order in which parents come first, with their edges."""
    waiting = {number: parents for number, parents, _ in tasks}
    seconds = {number: runtime for number, _, runtime in tasks}
    position: dict[int, int] = {}
    graph: list[tuple[tuple[int, ...], float]] = []
    progressed = True
    while progressed and len(graph) < LARGEST_GRAPH:
        progressed = False
        for number, parents in list(waiting.items()):
            if len(graph) < LARGEST_GRAPH and all(parent in position for parent in parents):
                position[number] = len(graph)
                graph.append((tuple(position[parent] for parent in parents), seconds[number]))
                del waiting[number]
                progressed = True
    return tuple(graph)


def _absent(path: Path) -> DataError:
    return DataError(
        f"{path} cannot be read; set bench.data to the data folder, or fetch it by "
        "`ironcliw bench fetch-data`"
    )
