"""A result as a document (Markdown) and as rows for programs (JSON)."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import Figure, Row, Samples, ThemeResult
from benchmarks.machine import Machine


def render(
    theme: str,
    result: ThemeResult,
    machine: Machine,
    facts: Mapping[str, str],
) -> str:
    """The Markdown page of one run.

    Args:
        theme: Name of the theme.
        result: Its rows and remarks.
        machine: Where it ran.
        facts: What else belongs to the page: command, commit, date, versions.
    """
    lines = [f"# Benchmark `{theme}`", "", "| | |", "|---|---|"]
    hardware = {
        "CPU": f"{machine.cpu}, {machine.cores} cores",
        "instruction sets": " ".join(machine.flags) or "unknown",
        "memory": f"{machine.memory_bytes / 2**30:.1f} GiB",
        "GPU": machine.gpu,
        "system": machine.system,
    }
    lines += [f"| {name} | {value} |" for name, value in {**hardware, **facts}.items()]
    lines += ["", "Median over the rounds, in brackets the smallest and the largest round.", ""]
    lines += table(result.rows)
    lines += ["", _verdict(result), ""]
    lines += [f"- {remark}" for remark in result.remarks]
    return "\n".join(lines).rstrip() + "\n"


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as lines of a Markdown table."""
    lines = ["| what | unit | ours | peers | ratio | goal | met |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        peers = "; ".join(f"{name} {figure(value)}" for name, value in row.peers.items())
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        met = {None: "", True: "yes", False: "**no**"}[row.met]
        name = f"{row.name} ({row.note})" if row.note else row.name
        cells = (name, row.unit, figure(row.ours), peers, ratio, str(row.goal or ""), met)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def figure(value: Figure) -> str:
    """A figure as people read it: median and range, or why there is none."""
    if not isinstance(value, Samples):
        return str(value)
    middle = number(value.median)
    if len(value.values) == 1:
        return middle
    return f"{middle} ({number(value.low)}-{number(value.high)})"


def number(value: float) -> str:
    """Three to five significant digits, no exponent."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    # cosines near 1 differ in the fourth decimal and beyond
    return f"{value:.5f}" if 0.9 < size < 1 else f"{value:.3g}"


def file_name(theme: str, machine: Machine, day: datetime.date, *marks: str) -> str:
    """Name of a result file: theme, marks such as `avx2`, hardware, date."""
    return "-".join((theme, *marks, machine.slug, day.isoformat())) + ".md"


# where things are read and written does not change what is measured
_PLACES = frozenset({"--data", "--results", "--json"})


def command_line(argv: Sequence[str]) -> str:
    """The command for whoever wants to repeat the run, without the folders of this machine."""
    words: list[str] = []
    skipped = False
    for word in argv:
        if not skipped and word.partition("=")[0] not in _PLACES:
            words.append(word)
        skipped = word in _PLACES
    return "`python -m benchmarks " + shlex.join(words) + "`"


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """A list with one object a row: theme, name, unit, ours, peers, ratio, goal, met."""
    text = json.dumps([row.as_json() for row in rows], indent=2, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def _verdict(result: ThemeResult) -> str:
    goals = [row for row in result.rows if row.goal is not None]
    if not goals:
        return "No goals in this run."
    missed = ", ".join(row.name for row in result.missed)
    return f"Goals met: {len(goals) - len(result.missed)} of {len(goals)}" + (
        f"; missed: {missed}." if missed else "."
    )
