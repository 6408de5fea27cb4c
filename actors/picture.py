"""A picture of a run as SVG: the graph of its steps, and when each of them ran. Pure.

Steps stand in columns, each to the right of those that it needs, coloured by their status; below,
one bar a step shows its time. The file has no script, no font and no image of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from ironcliw.schemas.workflows import StepView, WorkflowView

COLOURS: Mapping[str, str] = {
    "pending": "#d9d9d9",
    "ready": "#d9d9d9",
    "running": "#7eb6ff",
    "waiting": "#ffd27e",
    "completed": "#8fd694",
    "failed": "#f28b82",
    "skipped": "#efefef",
    "uncertain": "#ffab5e",
    "waived": "#c9b6f2",
    "cancelled": "#bdbdbd",
}
"""Fill of a box, by status; the status also stands in words."""

_WIDTH, _HEIGHT = 190, 52
_GAP_X, _GAP_Y = 60, 22
_MARGIN, _HEAD = 20, 56
_BAR, _NAMES = 18, 180
_LONGEST_NAME = 26
_ARROW_HEAD = (
    '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
    'markerHeight="7" orient="auto"><path d="M0,0 L10,5 L0,10 z" fill="#777"/></marker></defs>'
)
_PATH = 'fill="none" stroke="#777" stroke-width="1.5" marker-end="url(#arrow)"'


@dataclass(frozen=True, slots=True)
class _Place:
    column: int
    row: int

    @property
    def x(self) -> int:
        return _MARGIN + self.column * (_WIDTH + _GAP_X)

    @property
    def y(self) -> int:
        return _HEAD + self.row * (_HEIGHT + _GAP_Y)


def picture(view: WorkflowView, needs: Mapping[str, Sequence[str]], now: float) -> str:
    """An SVG document.

    Args:
        view: The run, with its steps.
        needs: For each step the names of those it waits for.
        now: Unix seconds, up to which the bars of what still runs are drawn.
    """
    places = _places([step.name for step in view.steps], needs)
    columns = 1 + max((place.column for place in places.values()), default=0)
    rows = 1 + max((place.row for place in places.values()), default=0)
    graph_bottom = _HEAD + rows * (_HEIGHT + _GAP_Y)
    width = 2 * _MARGIN + max(columns * (_WIDTH + _GAP_X) - _GAP_X, _NAMES + 420)
    height = graph_bottom + len(view.steps) * (_BAR + 6) + 2 * _MARGIN
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        _ARROW_HEAD,
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(_MARGIN, 26, f"{view.name}: {view.status}", "font-size='17' font-weight='bold'"),
        _text(_MARGIN, 44, _about(view, now), "fill='#555'"),
    ]
    for step in view.steps:
        parts += [
            _arrow(places[need], places[step.name])
            for need in needs.get(step.name, ())
            if need in places
        ]
    parts += [_box(step, places[step.name]) for step in view.steps]
    parts += _bars(view, now, graph_bottom + _MARGIN, width)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _places(names: Sequence[str], needs: Mapping[str, Sequence[str]]) -> dict[str, _Place]:
    """Each step one column right of the last it needs; `names` has no step before its needs."""
    places: dict[str, _Place] = {}
    filled: dict[int, int] = {}
    for name in names:
        before = [places[need].column for need in needs.get(name, ()) if need in places]
        column = 1 + max(before, default=-1)
        row = filled.get(column, 0)
        filled[column] = row + 1
        places[name] = _Place(column, row)
    return places


def _box(step: StepView, place: _Place) -> str:
    title = "" if step.error is None else f"<title>{_escaped(step.error.message)}</title>"
    dashes = ' stroke-dasharray="4 3"' if step.status in {"skipped", "pending"} else ""
    status: str = step.status
    if step.items is not None:
        status += f", {step.items_done or 0} of {step.items}"
    elif step.attempts > 1:
        status += f", attempt {step.attempts}"
    return (
        f'<g class={quoteattr(step.status)}>{title}<rect x="{place.x}" y="{place.y}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" rx="7" fill="{COLOURS[step.status]}" '
        f'stroke="#555"{dashes}/>'
        + _text(place.x + 10, place.y + 21, _short(step.name), "font-weight='bold'")
        + _text(place.x + 10, place.y + 40, f"{step.kind}: {status}", "fill='#333'")
        + "</g>"
    )


def _arrow(start: _Place, end: _Place) -> str:
    x1, y1 = start.x + _WIDTH, start.y + _HEIGHT // 2
    x2, y2 = end.x, end.y + _HEIGHT // 2
    middle = (x1 + x2) // 2
    return f'<path d="M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}" {_PATH}/>'


def _bars(view: WorkflowView, now: float, top: int, width: int) -> list[str]:
    """One line a step: its name, and a bar from its first start to its end."""
    begin = view.created_at
    end = max(view.finished_at or now, begin + 1e-6)
    scale = (width - _NAMES - 2 * _MARGIN - 70) / (end - begin)
    parts = []
    for number, step in enumerate(view.steps):
        y = top + number * (_BAR + 6)
        parts.append(_text(_MARGIN, y + 13, _short(step.name), "fill='#333'"))
        if step.started_at is None:
            continue
        until = step.finished_at or end
        x = _MARGIN + _NAMES + (step.started_at - begin) * scale
        length = max(2.0, (until - step.started_at) * scale)
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="3" '
            f'fill="{COLOURS[step.status]}" stroke="#777"/>'
        )
        label = _seconds(until - step.started_at)
        parts.append(_text(x + length + 6, y + 13, label, "fill='#555' font-size='11'"))
    return parts


def _about(view: WorkflowView, now: float) -> str:
    took = _seconds((view.finished_at or now) - view.created_at)
    why = "" if view.error is None else f", {view.error.message}"
    return _short(f"{view.id}, {took}{why}", 110)


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _short(text: str, most: int = _LONGEST_NAME) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    # XML has no word for most control characters
    return escape("".join(char if char.isprintable() else " " for char in text))
