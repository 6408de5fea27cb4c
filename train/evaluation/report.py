"""The table before and after a run, as a page and as JSON. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from train.evaluation.gate import Verdict, lower_is_better
from train.evaluation.held_out import are_of_one_kind, before_and_after

FORMAT_VERSION = 1
WORDS = {
    "eval_loss": "loss",
    "perplexity": "perplexity",
    "exact_match": "exact match",
    "decision_accuracy": "decision accuracy",
    "preference_accuracy": "preference accuracy",
    "reward_margin": "margin of the rewards",
    "retrieval_accuracy": "retrieval accuracy",
    "prototype_accuracy": "accuracy by prototypes",
}
_SHORTER = re.compile(r"retrieval_accuracy_(\d+)")


def measures_of(line: Mapping[str, Any]) -> dict[str, str]:
    """The measures of an evaluation and what they are called, in the order to show them in.

    Args:
        line: Of the log. An embedding model's has a measure for each shorter length of its vectors.
    """
    shorter = {int(found[1]): name for name in line if (found := _SHORTER.fullmatch(name))}
    return {name: words for name, words in WORDS.items() if name in line} | {
        shorter[length]: f"retrieval accuracy of {length} dimensions"
        for length in sorted(shorter, reverse=True)
    }


def table(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Measure, before, after; a measure that was not taken is a dash."""
    return [
        (words, _number(before.get(name)), _number(after[name]))
        for name, words in measures_of(after).items()
    ]


def as_json(lines: Sequence[Mapping[str, Any]], verdict: Verdict | None) -> dict[str, Any]:
    """Everything that was measured.

    Args:
        lines: Of the log, one an evaluation, the first before the first step.
        verdict: Of the gate.
    """
    measured = [
        {"step": line["step"], **{name: line[name] for name in measures_of(line)}} for line in lines
    ]
    return {
        "format_version": FORMAT_VERSION,
        "rows": lines[-1]["eval_rows"],
        "better": {
            name: "lower" if lower_is_better(name) else "higher" for name in measures_of(lines[-1])
        },
        "evaluations": measured,
        "gate": as_record(verdict),
    }


def as_record(verdict: Verdict | None) -> dict[str, Any] | None:
    """A verdict as JSON."""
    if verdict is None:
        return None
    return {
        "metric": verdict.metric,
        "before": verdict.before,
        "after": verdict.after,
        "tolerance": verdict.tolerance,
        "passed": verdict.passed,
    }


def from_record(values: Mapping[str, Any] | None) -> Verdict | None:
    """What `as_record` made."""
    if values is None:
        return None
    return Verdict(values["metric"], values["before"], values["after"], values["tolerance"])


def as_markdown(name: str, lines: Sequence[Mapping[str, Any]], verdict: Verdict | None) -> str:
    """A page with the table, each evaluation, and what the gate says."""
    names = measures_of(lines[-1])
    page = [f"# {name}", "", f"{lines[-1]['eval_rows']} held-out rows.", ""]
    before, after = before_and_after(lines)
    assert after is not None, "a page is written of what was measured"
    if before is None or not are_of_one_kind(before, after):
        before = {}  # other numbers, which must not stand beside these
    page += _markdown(("measure", "before", "after"), table(before, after))
    page += ["", "Each evaluation:", ""]
    page += _markdown(
        ("step", *names.values()),
        [(str(line["step"]), *(_number(line.get(each)) for each in names)) for line in lines],
    )
    if verdict is not None:
        said = "may be published" if verdict.passed else "is not published"
        page += ["", f"The result {said}: {verdict.words}."]
    return "\n".join([*page, ""])


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
