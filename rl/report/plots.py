"""The report's pictures, as SVG whose bytes depend on the figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.evaluate import BASE
from rl.report.board import Board
from rl.report.contestants import CLAIRVOYANT, LITERAL
from rl.report.timeline import AT_HOME, Timeline
from rl.statistics import Interval

HOUR = 3600.0
_STYLE: dict[Any, Any] = {
    # identifiers and dates would differ from run to run; text stays text, so files are small
    "svg.hashsalt": "ironcliw",
    "svg.fonttype": "none",
    "font.size": 8.0,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}
_OURS, _BASE, _RULE, _KNOWN = "#c4570c", "#1f4e8c", "#7a8699", "#3a7d44"
_KINDS = {
    "decide": "#9aa5b1",
    "embed": "#5b8fd0",
    "generate": "#c4570c",
    "train": "#3a7d44",
    "function": "#b59a3c",
}


def frontier(board: Board, file: Path) -> None:
    """Money for machines against deadlines kept: each policy a point, a curve where it was swept.

    A curve's points are the same policy told other values of time: `plan.FACTORS`, and 1.
    """
    with _Panels(file, board.regimes, "USD a day for machines", "deadlines kept, %") as axes:
        for regime, axis in axes.items():
            for name in board.policies:
                if board.ours not in (name, BASE) and name in board.learned:
                    continue  # of several seeds the median one
                x, y = (float(board.mean(regime, name, one)[0]) for one in ("dollars", "met"))
                axis.plot(x, 100 * y, marker="o", color=_colour(board, name), markersize=4)
                axis.annotate(_short(name), (x, 100 * y), xytext=(3, 3), fontsize=6,
                              textcoords="offset points", color=_colour(board, name))  # fmt: skip
            for name in dict.fromkeys((BASE, board.ours)):
                swept = board.frontier.get(regime, {})
                chosen = [one for one in swept if one.partition(" at ")[0] == name]
                pairs = sorted(
                    (float(swept[one]["dollars"].mean()), 100 * float(swept[one]["met"].mean()))
                    for one in chosen
                )
                axis.plot(
                    [x for x, _ in pairs], [y for _, y in pairs], color=_colour(board, name),
                    linewidth=1, marker=".", markersize=3,
                )  # fmt: skip


def regret(board: Board, file: Path) -> None:
    """USD a day above who knew the day beforehand, per regime, with 95 % intervals."""
    with _Panels(file, board.regimes, "USD a day above clairvoyant", "") as axes:
        for regime, axis in axes.items():
            names = dict.fromkeys((board.ours, BASE, board.cheapest_rule(regime)))
            for row, name in enumerate(names):
                one: Interval = board.regret(name, regime)
                axis.barh(row, one.mean, color=_colour(board, name), height=0.6)
                axis.plot([one.low, one.high], [row, row], color="black", linewidth=1)
            axis.set_yticks(range(len(names)), [_short(name) for name in names])
            axis.invert_yaxis()


def timeline(days: Mapping[str, Timeline], title: str, file: Path) -> None:
    """A day as each of some policies made it: steps at home and on machines, lost ones hatched."""
    from matplotlib.patches import Patch

    names = tuple(days)
    with _Panels(file, names, "hour of the day", "", columns=1, height=3.2, width=11) as axes:
        last = max(span.end for one in days.values() for span in one.spans)
        for name, axis in axes.items():
            _draw_day(axis, days[name])
            outcome = days[name].outcome
            axis.set_title(
                f"{title}, {name}: {outcome.cost:.2f} USD, {100 * outcome.met:.0f} % in time",
                fontsize=8,
            )
            first = min(days[name].arrivals) / HOUR
            axis.set_xlim(first - 0.2, last / HOUR + 0.2)
        patches = [Patch(color=colour, label=kind) for kind, colour in _KINDS.items()]
        patches.append(Patch(facecolor="#e8edf5", edgecolor="#b8c4d6", label="machine"))
        axes[names[0]].legend(handles=patches, ncols=6, fontsize=6, loc="upper right")


def _draw_day(axis: Any, day: Timeline) -> None:
    slots = sorted({life.slot for life in day.lives})
    offsets, labels, top = {}, [], 0
    for place in (AT_HOME, *slots):
        rows = 1 + max((span.row for span in day.spans if span.place == place), default=0)
        offsets[place] = top
        labels.append((top + rows / 2, "home" if place == AT_HOME else f"machine {place}"))
        for life in day.lives:
            if life.slot == place:
                begin, ready, end = (at / HOUR for at in (life.begin, life.ready, life.end))
                axis.broken_barh([(begin, end - begin)], (top, rows), facecolor="#e8edf5")
                axis.broken_barh([(begin, ready - begin)], (top, rows), facecolor="#b8c4d6")
                if life.was_lost:
                    axis.plot([end, end], [top, top + rows], color="red", linewidth=1)
        top += rows + 1
    for span in day.spans:
        begin, length = span.begin / HOUR, max(span.end - span.begin, 15.0) / HOUR
        axis.broken_barh(
            [(begin, length)], (offsets[span.place] + span.row + 0.1, 0.8),
            facecolor=_KINDS.get(span.kind, "#444444"), hatch=None if span.ended else "////",
        )  # fmt: skip
    axis.plot([at / HOUR for at in day.arrivals], [-0.6] * len(day.arrivals), "|", color="black")
    axis.plot([at / HOUR for at in day.missed], [-1.3] * len(day.missed), "x", color="red",
              markersize=4)  # fmt: skip
    axis.set_yticks(
        [-0.6, -1.3, *(at for at, _ in labels)],
        ["workflow comes", "deadline missed", *(text for _, text in labels)],
    )
    axis.invert_yaxis()


class _Panels:
    """Panels by name, drawn within `with` and written at its end."""

    def __init__(
        self,
        file: Path,
        names: Sequence[str],
        across: str,
        up: str,
        *,
        columns: int = 3,
        height: float = 2.6,
        width: float = 11.0,
    ) -> None:
        self._file, self._names, self._labels = file, names, (across, up)
        self._columns = min(columns, len(names))
        self._rows = -(-len(names) // self._columns)
        self._inches = (width * self._columns / columns, height * self._rows)

    def __enter__(self) -> dict[str, Any]:
        # no pyplot: it would choose a window system, and keep every figure
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self._context = matplotlib.rc_context(_STYLE)
        self._context.__enter__()
        self._figure = Figure(figsize=self._inches, layout="constrained")
        FigureCanvasSVG(self._figure)
        grid = self._figure.subplots(self._rows, self._columns, squeeze=False).ravel()
        for axis in grid[len(self._names) :]:
            axis.set_visible(False)
        axes = dict(zip(self._names, grid[: len(self._names)], strict=True))
        for name, axis in axes.items():
            axis.set_title(name)
            axis.set_xlabel(self._labels[0])
            axis.set_ylabel(self._labels[1])
        return axes

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                nothing = {"Date": None, "Creator": None}
                self._figure.savefig(self._file, format="svg", metadata=nothing)
        finally:
            self._context.__exit__(*error)


def _short(name: str) -> str:
    return name.removeprefix("rule ").partition(":")[0] if name in LITERAL else name


def _colour(board: Board, name: str) -> str:
    if name == BASE:
        return _BASE
    if name == CLAIRVOYANT:
        return _KNOWN
    return _OURS if name == board.ours else _RULE
