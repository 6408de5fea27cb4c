"""A comparison as JSON and as a page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from train.comparison.config import BASE, ComparisonConfig
from train.comparison.run import SuiteResult
from train.evaluation.gate import lower_is_better
from train.evaluation.report import WORDS

FORMAT_VERSION = 1
MEASURES = WORDS | {
    "preference_accuracy": "preference accuracy",
    "preference_margin": "preference margin",
}


def as_json(config: ComparisonConfig, results: Sequence[SuiteResult]) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "model": config.model_name,
        "adapters": dict(config.adapters),
        "precision": config.precision,
        "suites": [_suite(result) for result in results],
    }


def _suite(result: SuiteResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "kind": result.kind,
        "rows": result.rows,
        "data_digest": result.digest,
        "better": {name: _direction(name) for name in _names(result)},
        "measures": {name: dict(found) for name, found in result.measures.items()},
        "win_rates": [
            {
                "candidate": ours,
                "against": theirs,
                "rate": rate.rate,
                "interval": list(rate.interval),
                "wins": rate.wins,
                "ties": rate.ties,
                "margin": rate.margin,
                "verdict": rate.verdict,
            }
            for (ours, theirs), rate in result.win_rates.items()
        ],
    }


def as_markdown(config: ComparisonConfig, results: Sequence[SuiteResult]) -> str:
    """A page: a table of measures and one of win rates for each suite."""
    page = [f"# {config.name}", "", f"Base: {config.model_name}.", ""]
    if config.adapters:
        page += [*(f"- {name}: `{where}`" for name, where in config.adapters.items()), ""]
    for result in results:
        page += [f"## {result.name}", "", f"{result.rows} rows of {result.kind}.", ""]
        page += _markdown(*measures_table(result))
        if result.win_rates:
            page += ["", _EXPLAINED[result.kind], "", *_markdown(*wins_table(result))]
        page.append("")
    return "\n".join(page)


_EXPLAINED = {
    "answers": "Win rate: share of rows whose answer the candidate holds for likelier than the "
    "other does; in brackets its 95 % interval. Margin: mean difference in nats a row.",
    "preferences": "Win rate: share of rows where the candidate puts more between the chosen and "
    "the rejected answer than the other does; in brackets its 95 % interval. Margin: mean "
    "difference in nats a row.",
}


def measures_table(result: SuiteResult) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: candidates, with their measures and the change against the base."""
    names = _names(result)
    heading = ["candidate", *(f"{MEASURES[name]} ({_direction(name)})" for name in names)]
    base = result.measures[BASE]
    rows = []
    for candidate, found in result.measures.items():
        cells = [candidate]
        for name in names:
            change = "" if candidate == BASE else f" ({found[name] - base[name]:+.4f})"
            cells.append(f"{found[name]:.4f}{change}")
        rows.append(cells)
    return heading, rows


def wins_table(result: SuiteResult) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: each adapter against the base and the adapters before it."""
    heading = ["candidate", "against", "win rate", "margin", "verdict"]
    order = list(result.measures)
    rows = []
    for (ours, theirs), rate in result.win_rates.items():
        if order.index(ours) > order.index(theirs):
            low, high = rate.interval
            shown = f"{rate.rate:.1%} [{low:.1%}, {high:.1%}]"
            rows.append([ours, theirs, shown, f"{rate.margin:+.3f}", rate.verdict])
    return heading, rows


def _names(result: SuiteResult) -> list[str]:
    return [name for name in MEASURES if name in result.measures[BASE]]


def _direction(name: str) -> str:
    return "lower" if lower_is_better(name) else "higher"


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
