"""The picture of a run: well-formed, complete, and safe with any text."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.picture import COLOURS, picture
from ironcliw.schemas.workflows import Failure, StepView, WorkflowView

SVG = "{http://www.w3.org/2000/svg}"
NEEDS = {"parts": [], "left": ["parts"], "right": ["parts"], "join": ["left", "right"]}


def step(name: str, **changes: Any) -> StepView:
    fields = {"kind": "function", "status": "completed", "attempts": 1, **changes}
    return StepView(name=name, **fields)


def view(*steps: StepView, **changes: Any) -> WorkflowView:
    fields: dict[str, Any] = {"status": "running", "priority": "normal", "owner": "local"}
    fields |= {"created_at": 100.0, "updated_at": 110.0, **changes}
    return WorkflowView(id="wf", name="answer", steps=list(steps), **fields)


def drawn(run: WorkflowView, needs: Any = None) -> ElementTree.Element:
    return ElementTree.fromstring(picture(run, needs or {}, now=110.0))


def texts(root: ElementTree.Element) -> str:
    return " ".join(one.text or "" for one in root.iter(f"{SVG}text"))


def boxes(root: ElementTree.Element) -> dict[str, tuple[float, float]]:
    found = {}
    for group in root.iter(f"{SVG}g"):
        rect, name = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert rect is not None and name is not None
        found[name.text or ""] = (float(rect.get("x", 0)), float(rect.get("y", 0)))
    return found


def test_steps_stand_right_of_those_they_need_and_none_on_another() -> None:
    root = drawn(view(*(step(name) for name in NEEDS)), NEEDS)
    places = boxes(root)
    for name, needs in NEEDS.items():
        assert all(places[need][0] < places[name][0] for need in needs)
    assert len(set(places.values())) == 4
    arrows = [one for one in root.iter(f"{SVG}path") if one.get("marker-end")]
    assert len(arrows) == 4


def test_status_items_attempts_and_errors_are_told() -> None:
    root = drawn(
        view(
            step("parts", items=5, items_done=2, status="running"),
            step("left", attempts=3, status="waiting"),
            step("join", status="failed", error=Failure(kind="error", message="it <broke> & fell")),
            error=Failure(kind="error", message="join failed"),
        )
    )
    told = texts(root)
    assert "running, 2 of 5" in told
    assert "waiting, attempt 3" in told
    assert "join failed" in told
    assert [one.text for one in root.iter(f"{SVG}title")] == ["it <broke> & fell"]


def test_bars_show_when_steps_ran() -> None:
    root = drawn(
        view(
            step("first", started_at=100.0, finished_at=105.0),
            step("second", started_at=105.0, status="running"),
            step("third", status="pending"),
        )
    )
    bars = [one for one in root.iter(f"{SVG}rect") if one.get("height") == "18"]
    assert len(bars) == 2
    first, second = ((float(b.get("x", 0)), float(b.get("width", 0))) for b in bars)
    assert first[0] + first[1] == pytest.approx(second[0], abs=0.2)
    assert first[1] == pytest.approx(second[1], abs=0.2)


def test_every_status_has_a_colour() -> None:
    for status in COLOURS:
        assert COLOURS[status] in picture(view(step("a", status=status)), {}, 110.0)


@given(st.text(), st.text())
def test_any_text_gives_a_document(name: str, message: str) -> None:
    failure = Failure(kind="error", message=message)
    drawn(view(step("a", error=failure), error=failure).model_copy(update={"name": name}))
