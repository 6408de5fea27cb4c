"""What a sweep has found, as a table, a page and JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from train.sweep.config import Point, SweepConfig

FORMAT_VERSION = 1
State = Literal["finished", "ended early", "failed", "unfinished"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial.

    Attributes:
        name: Of its folder.
        uri: Of it.
        point: What it differs in.
        state: How it stands.
        history: Its evaluations: step, epoch and measures.
        error: Why it failed.
    """

    name: str
    uri: str
    point: Point
    state: State
    history: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    error: str = ""

    def value(self, metric: str) -> float:
        """The last measure after a step; NaN where there is none."""
        last = self.history[-1] if self.history else {}
        return float(last.get(metric, math.nan)) if last.get("step", 0) > 0 else math.nan


def ranked(config: SweepConfig, trials: Sequence[Trial]) -> list[Trial]:
    """The best first: trials that ended by themselves, then those that were ended early.

    Measures after different numbers of steps are not compared.
    """
    order = {"finished": 0, "ended early": 1, "unfinished": 2, "failed": 3}
    sign = 1 if config.mode == "min" else -1

    def key(trial: Trial) -> tuple[int, float, str]:
        value = trial.value(config.metric)
        return order[trial.state], sign * value if math.isfinite(value) else math.inf, trial.name

    return sorted(trials, key=key)


def best(config: SweepConfig, trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the best measure; None where there is none."""
    first = next(iter(ranked(config, trials)), None)
    if first is None or first.state != "finished":
        return None
    return first if math.isfinite(first.value(config.metric)) else None


def table(config: SweepConfig, trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows, the best first."""
    heading = [*config.space, "steps", "epochs", config.metric, "state"]
    rows = []
    for trial in ranked(config, trials):
        last = trial.history[-1] if trial.history else {}
        cells = [str(trial.point[key]) for key in config.space]
        cells += [str(last.get("step", 0)), str(last.get("epoch", 0))]
        value = trial.value(config.metric)
        rows.append([*cells, f"{value:.4f}" if math.isfinite(value) else "-", trial.state])
    return heading, rows


def as_json(config: SweepConfig, trials: Sequence[Trial]) -> dict[str, Any]:
    """Everything, the best first."""
    winner = best(config, trials)
    return {
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "metric": config.metric,
        "better": "lower" if config.mode == "min" else "higher",
        "best": None if winner is None else winner.name,
        "trials": [
            {
                "name": trial.name,
                "folder": trial.uri,
                "point": dict(trial.point),
                "state": trial.state,
                "value": _number(trial.value(config.metric)),
                "history": [
                    {key: _number(value) for key, value in line.items()} for line in trial.history
                ],
                "error": trial.error,
            }
            for trial in ranked(config, trials)
        ],
    }


def as_markdown(config: SweepConfig, trials: Sequence[Trial], picture: str) -> str:
    """A page with the table, the picture and the best trial's configuration."""
    direction = "lower" if config.mode == "min" else "higher"
    page = [f"# {config.name}", "", f"{len(trials)} trials; of {config.metric}, {direction} is "]
    page[-1] += "better."
    page += ["", *_markdown(*table(config, trials)), "", f"![{config.metric}]({picture})", ""]
    winner = best(config, trials)
    if winner is None:
        page += ["No trial is finished with a measure.", ""]
    else:
        keys = " ".join(f"--set {key}={value}" for key, value in winner.point.items())
        page += [f"The best one is `{winner.name}`: `{keys}`.", ""]
    page += [f"- `{trial.name}` failed: {trial.error}" for trial in trials if trial.error]
    return "\n".join(page)


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heading, ["---:"] * len(heading), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _number(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
