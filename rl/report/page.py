"""The report as a document. All but its last section is the same whenever it is made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rl.evaluate import BASE
from rl.report.board import Board
from rl.report.contestants import CLAIRVOYANT
from rl.report.goals import Verdict, percent, plain, verdicts
from rl.report.plan import Plan, code_digest
from rl.statistics import Interval

_COLUMNS = (
    ("met", "deadlines kept", "{:.3f}"),
    ("dollars", "USD for machines", "{:.3f}"),
    ("waiting", "for waiting", "{:.3f}"),
    ("misses", "for misses", "{:.3f}"),
    ("flow_p50", "flow p50, s", "{:.0f}"),
    ("flow_p95", "flow p95, s", "{:.0f}"),
)

_COUNTS = {
    "breaches": "above the cap",
    "misplaced": "placed out of memory",
    "out_of_memory": "out of memory at all",
}


def page(
    plan: Plan,
    board: Board,
    pictures: Mapping[str, str],
    facts: Mapping[str, str],
    of_time: Sequence[Verdict],
) -> str:
    """All of it.

    Args:
        plan: What was run.
        board: What it came to.
        pictures: Path of each, by its caption.
        facts: Of the run: machine, commit, date, seconds; they may differ from run to run.
        of_time: Goals of seconds, which do too.
    """
    lines = [
        "# Routing: learned policies, rules, and what could be reached",
        "",
        *_what(plan, board),
        "",
        "## Goals",
        "",
        *_goals(verdicts(board)),
        "",
        *(_seeds(board) if len(board.learned) > 1 else []),
        "## Each regime",
        "",
        *_regimes(board),
        "## Who knew the day beforehand",
        "",
        *_known(plan, board),
        "",
        *(line for caption, path in pictures.items() for line in (f"![{caption}]({path})", "")),
        "## Times",
        "",
        "Unlike all above, these differ from run to run.",
        "",
        *_goals(of_time),
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _what(plan: Plan, board: Board) -> list[str]:
    options = plan.options
    found = [
        (
            f"{options.days} days of {options.split} in each of {len(plan.regimes)} regimes, seed "
            f"{options.seed}, the same for every policy; 95 % intervals by paired bootstrap over "
            f"days. The objective J is USD a day: machines, waiting, missed deadlines. Ours is "
            f"**{board.ours}**, compared with **{BASE}**: the rules alone prove nothing."
        ),
        "",
        f"- simulator: {code_digest()[:16]}",
        *(f"- {regime.name}: {regime.digest()[:16]}" for regime in plan.regimes),
        *(f"- {one.name}: {one.digest[:16]}" for one in plan.learned),
    ]
    if not board.learned:
        found += ["", "No learned policy was given, so goals of one are not run."]
    elif len(board.learned) > 1:
        found += ["", f"Of {len(board.learned)} seeds of the training the median one is ours."]
    return found


def _goals(found: Sequence[Verdict]) -> list[str]:
    lines = ["| what | goal | figure | met |", "|---|---|---|---|"]
    lines += [f"| {one.what} | {one.goal} | {one.figure} | {one.word} |" for one in found]
    asked = [one for one in found if one.met is not None]
    met = sum(one.met is True for one in asked)
    return [*lines, "", f"Met: {met} of {len(asked)}" + _unasked(len(found) - len(asked))]


def _unasked(count: int) -> str:
    return f"; {count} not run." if count else "."


def _seeds(board: Board) -> list[str]:
    lines = [
        "## Seeds of the training",
        "",
        f"J by that of {BASE}, in all regimes and in each.",
        "",
        "| policy | all | " + " | ".join(board.regimes) + " |",
        "|---|---|" + "---|" * len(board.regimes),
    ]
    for name in board.learned:
        cells = [plain(board.ratio(name)), *(_mean(board, name, one) for one in board.regimes)]
        mark = " (median)" if name == board.ours else ""
        lines.append(f"| {name}{mark} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _mean(board: Board, name: str, regime: str) -> str:
    return f"{board.ratio(name, regime).mean:.3f}"


def _regimes(board: Board) -> list[str]:
    lines = []
    for regime in board.regimes:
        titles = " | ".join(title for _, title, _ in _COLUMNS)
        counts = " | ".join(_COUNTS.values())
        lines += [
            f"### {regime}",
            "",
            f"| policy | J, USD a day | by {BASE} | {titles} | {counts} |",
            "|---|---|---|" + "---|" * (len(_COLUMNS) + len(_COUNTS)),
        ]
        for name in board.policies:
            if name in board.learned and name != board.ours:
                continue  # its ratios stand with the seeds
            cost = Interval.of(board.mean(regime, name, "cost"))
            cells = [name, plain(cost), plain(board.ratio(name, regime))]
            cells += [
                form.format(board.mean(regime, name, column)[0]) for column, _, form in _COLUMNS
            ]
            figures = board.all_days[regime][name]
            cells += [f"{figures[one].sum():.0f}" for one in _COUNTS]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        for names in board.alike(regime):
            lines += [f"The same on every day: {', '.join(names)}.", ""]
    return lines


def _known(plan: Plan, board: Board) -> list[str]:
    options = plan.options
    lines = [
        (
            f"On the first {options.clairvoyant} days of each regime: a search of "
            f"{options.evaluations} simulations a day that knows all of it (what it finds can be "
            "reached, the optimum is lower), and a proven lower bound. Regret is USD a day above "
            "the search."
        ),
        "",
        (
            f"| regime | clairvoyant by {BASE} | bound by {BASE} | regret of {board.ours} "
            f"| of {BASE} | of the cheapest rule | gap closed |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for regime in board.regimes:
        base = board.known(BASE, "cost", regime)
        best = Interval.of(board.known(CLAIRVOYANT, "cost", regime) / base)
        bound = Interval.of(board.known(CLAIRVOYANT, "bound", regime) / base)
        regrets = [
            plain(board.regret(name, regime))
            for name in (board.ours, BASE, board.cheapest_rule(regime))
        ]
        closed = percent(board.gap_closed(board.ours, regime), 0) if board.learned else ""
        lines.append(
            f"| {regime} | {plain(best)} | {bound.mean:.3f} | {' | '.join(regrets)} | {closed} |"
        )
    return lines
