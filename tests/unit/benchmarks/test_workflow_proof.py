"""The judge of the proof sees what it must not let pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from actors.workflow.definition import define
from actors.workflow_records import EventRow, WorkflowRow
from benchmarks.workflow_proof import render
from benchmarks.workflow_proof_judge import Verdict, judge
from benchmarks.workflow_proof_run import SLICE, Outcome
from benchmarks.workflow_proof_work import DEFINITION, ONCE, OUTPUT, VALUES

ROW = WorkflowRow("w", "proof", "local", {}, {}, "completed", 2, 0.0, 9.0, finished_at=9.0)
Told = tuple[str, str | None, float, int | None]


def events(*told: Told) -> list[EventRow]:
    rows = [
        EventRow(seq, at, kind, step, None, attempt)
        for seq, (kind, step, at, attempt) in enumerate(told, 1)
    ]
    if rows[-1].kind == "completed":
        rows[-1] = replace(rows[-1], data={"output": OUTPUT})
    return rows


def runs(*told: tuple[str, float, int]) -> list[dict[str, Any]]:
    return [{"workflow": "w", "step": s, "at": at, "attempt": n} for s, at, n in told]


GOOD: Sequence[Told] = (
    ("submitted", None, 0.0, None),
    ("step_started", "b", 1.0, 1),
    ("step_completed", "b", 3.0, 1),
    ("completed", None, 4.0, None),
)
UNCERTAIN: Sequence[Told] = (*GOOD[:2], ("step_uncertain", "b", 3.0, 1))


def test_what_is_right_passes() -> None:
    found = judge([(ROW, events(*GOOD))], runs(("b", 1.5, 1)), [], [])
    assert found.is_good and (found.finished, found.uncertain) == (1, 0)
    row = replace(ROW, status="uncertain")
    found = judge([(row, events(*UNCERTAIN))], runs(("b", 1.5, 1)), [], [])
    assert found.is_good and (found.finished, found.uncertain) == (0, 1)


def test_an_idempotent_step_may_run_twice_before_it_has_completed() -> None:
    told = [(kind, step and "a", at, n) for kind, step, at, n in GOOD]
    found = judge([(ROW, events(*told))], runs(("a", 1.5, 1), ("a", 2.5, 1)), [], [])
    assert found.is_good
    found = judge([(ROW, events(*GOOD))], runs(("b", 1.5, 1), ("b", 2.5, 1)), [], [])
    assert found.wrong == ["w b ran 2 times and may run 1 times"]


def test_a_user_may_have_a_step_run_again() -> None:
    told = (*UNCERTAIN, ("step_released", "b", 4.0, None), ("step_started", "b", 4.0, 2))
    row = replace(ROW, status="uncertain")
    found = judge([(row, events(*told))], runs(("b", 1.5, 1), ("b", 4.5, 2)), [], [])
    assert found.wrong == ["w stands as uncertain for []"], "it runs"
    told = (*told, ("step_completed", "b", 5.0, 2), ("completed", None, 5.0, None))
    assert judge([(ROW, events(*told))], runs(("b", 1.5, 1), ("b", 4.5, 2)), [], []).is_good


def test_a_completed_step_that_runs_again_is_seen() -> None:
    found = judge([(ROW, events(*GOOD))], runs(("b", 3.5, 1)), [], [])
    assert found.rerun == ["w b ran 0.500 s after it had completed"]
    told = (*GOOD[:3], ("step_started", "b", 3.5, 2), GOOD[3])
    assert "step_started" in judge([(ROW, events(*told))], [], [], []).rerun[0]


def test_a_run_that_was_not_committed_before_is_seen() -> None:
    found = judge([(ROW, events(*GOOD))], runs(("b", 0.5, 1)), [], [])
    assert found.wrong == ["w b: attempt 1 ran before it was committed"]
    found = judge([(ROW, events(*GOOD))], runs(("b", 1.5, 1), ("z", 1.0, 1)), [], [])
    assert found.wrong == ["w z ran and nobody knows"]


@pytest.mark.parametrize(
    ("row", "told", "message"),
    [
        (replace(ROW, status="running"), GOOD[:2], "w is running: None"),
        (replace(ROW, status="failed", error="x"), GOOD[:2], "w is failed: x"),
        (
            replace(ROW, status="uncertain"),
            (*GOOD[:1], ("step_started", "a", 1.0, 1), ("step_uncertain", "a", 2.0, 1)),
            r"w stands as uncertain for ['a']",
        ),
    ],
)
def test_what_has_neither_ended_nor_waits_by_the_rule_is_seen(
    row: WorkflowRow, told: Sequence[Told], message: str
) -> None:
    assert judge([(row, events(*told))], [], [], []).wrong == [message]


def test_a_wrong_output_is_seen() -> None:
    told = events(*GOOD)
    told[-1] = replace(told[-1], data={"output": OUTPUT + 1})
    assert judge([(ROW, told)], [], [], []).wrong == [f"w gave {OUTPUT + 1} instead of {OUTPUT}"]


def test_messages_are_counted() -> None:
    numbers = [{"number": number} for number in (1, 2, 3)]
    found = judge([], [], numbers, [{"number": 1}, {"number": 1}, {"number": 3}, {"number": 4}])
    assert (found.messages, found.lost, found.repeated) == (3, [2], 1)
    assert not found.is_good


def test_the_definition_is_one_and_gives_what_is_expected() -> None:
    steps = define(DEFINITION).source["steps"]
    assert {name for name, step in steps.items() if step["function"] == "proof.once"} == ONCE
    values: dict[str, int] = {}
    for name in steps:
        given = (steps[name].get("with") or {})["values"]
        known = [
            one if isinstance(one, int) else values[one[len("${steps.") : -1]] for one in given
        ]
        values[name] = sum(known) + 1
    assert values == VALUES


def test_the_report_names_what_is_wrong() -> None:
    verdict = Verdict(finished=38, uncertain=1, wrong=["w is running: None"], lost=[7], messages=9)
    outcome = Outcome(verdict, 1, Verdict(finished=40), {"step": 3, "head": 1}, 99.5)
    assert not outcome.is_good
    text = render(SLICE, outcome)
    assert "Killed: head 1, step 3, over 45 s." in text
    assert "| completed with the right output | 38 |" in text
    assert "- w is running: None" in text
    assert "- message 7 was taken and never arrived" in text
