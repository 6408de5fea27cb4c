"""The goals that were set before anything was learned, beside the figures."""

from __future__ import annotations

from dataclasses import dataclass

from rl.evaluate import BASE
from rl.report.board import Board
from rl.report.contestants import LITERAL
from rl.statistics import Interval


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what became of it.

    Attributes:
        met: None where there is no policy to ask it of.
    """

    what: str
    goal: str
    figure: str
    met: bool | None

    @property
    def word(self) -> str:
        """As it stands in a table."""
        return {None: "not run", True: "yes", False: "**no**"}[self.met]


def verdicts(board: Board) -> list[Verdict]:
    """All goals that days decide; those of seconds are with `rl.report.speed`."""
    return [*_costs(board), *_deadlines(board), *_limits(board)]


def percent(interval: Interval, digits: int = 1) -> str:
    """A share with its interval."""
    mean, low, high = (100 * value for value in (interval.mean, interval.low, interval.high))
    return f"{mean:.{digits}f} % [{low:.{digits}f}, {high:.{digits}f}]"


def points(interval: Interval) -> str:
    """A difference of shares, in points."""
    mean, low, high = (100 * value for value in (interval.mean, interval.low, interval.high))
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]"


def plain(interval: Interval, digits: int = 3) -> str:
    """A number with its interval."""
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _costs(board: Board) -> list[Verdict]:
    ours, found = board.ours, []
    for rule in board.of_names(LITERAL):
        saving = board.saving(ours, rule)
        met = saving.mean >= 0.35 and saving.low >= 0.25
        goal = ">= 35 %, lower end >= 25 %"
        found.append(Verdict(f"mean J below {rule}", goal, percent(saving), met))
    saving = board.saving(ours, BASE)
    has = bool(board.learned)
    met = saving.mean >= 0.08 and saving.low >= 0.03
    goal = ">= 8 %, lower end >= 3 %"
    found.append(_asked(has, f"mean J below {BASE}", goal, percent(saving), met))
    worst = max(board.regimes, key=lambda regime: board.ratio(ours, regime).mean)
    ratio = board.ratio(ours, worst)
    excess = Interval(ratio.mean - 1, ratio.low - 1, ratio.high - 1)
    what = f"worst regime ({worst}), J above {BASE}"
    found.append(_asked(has, what, "<= 3 %", percent(excess), excess.mean <= 0.03))
    closed = board.gap_closed(ours)
    what = f"gap from {BASE} to clairvoyant closed"
    found.append(_asked(has, what, ">= 25 %", percent(closed), closed.mean >= 0.25))
    return found


def _deadlines(board: Board) -> list[Verdict]:
    ours, has = board.ours, bool(board.learned)
    own = board.pooled(ours, "met")
    rules = board.over_regimes(lambda regime: board.mean(regime, board.best_rule(regime), "met"))
    over_rules = Interval.of(own - rules)
    over_base = Interval.of(own - board.pooled(BASE, "met"))
    dollars = board.ratio(ours, column="dollars")
    return [
        Verdict(
            "deadlines kept, beside each regime's best rule",
            ">= +8 points",
            points(over_rules),
            over_rules.mean >= 0.08,
        ),
        _asked(
            has,
            f"deadlines kept, beside {BASE}",
            ">= +2 points",
            points(over_base),
            over_base.mean >= 0.02,
        ),
        _asked(
            has,
            f"USD for machines by that of {BASE}",
            "<= 1.05",
            plain(dollars),
            dollars.mean <= 1.05,
        ),
    ]


def _limits(board: Board) -> list[Verdict]:
    names = {
        "breaches": "days above the cap",
        "misplaced": "steps placed where memory ran out at once",
    }
    found = []
    for column, what in names.items():
        count = board.total(board.ours, column)
        found.append(Verdict(what, "0", str(count), count == 0))
    return found


def _asked(has_learned: bool, what: str, goal: str, figure: str, met: bool) -> Verdict:
    """A goal of learned policies alone."""
    return Verdict(what, goal, figure, met) if has_learned else Verdict(what, goal, "", None)
