"""What must hold of workflows and messages after all that happened to them. Pure.

The store says what was committed, the notes say what was done; neither is asked about itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.workflow_records import EventRow, WorkflowRow
from benchmarks.workflow_proof_work import ONCE, OUTPUT


@dataclass
class Verdict:
    """What was found.

    Attributes:
        finished: Workflows that completed with the right output.
        uncertain: Those that stand as uncertain, by the rule.
        wrong: What must not be, each with its workflow.
        rerun: Steps that ran again after they had completed.
        lost: Durable messages that were taken and never arrived.
        messages: That were taken.
        repeated: Messages that arrived more than once, as at-least-once allows.
    """

    finished: int = 0
    uncertain: int = 0
    wrong: list[str] = field(default_factory=list)
    rerun: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    messages: int = 0
    repeated: int = 0

    @property
    def is_good(self) -> bool:
        """Nothing that must not be."""
        return not (self.wrong or self.rerun or self.lost)


Stored = tuple[WorkflowRow, Sequence[EventRow]]
Notes = Iterable[Mapping[str, Any]]


def judge(stored: Iterable[Stored], runs: Notes, accepted: Notes, received: Notes) -> Verdict:
    """Hold what was committed against what was done.

    Args:
        stored: Every workflow that was submitted, with its events.
        runs: Of steps: `at`, `workflow`, `step`, `attempt`.
        accepted: Messages that were taken: `number`.
        received: Messages that arrived: `number`.
    """
    verdict = Verdict()
    by_step: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        by_step[run["workflow"], run["step"]].append(run)
    for row, events in stored:
        _judge_end(verdict, row, events)
        for step in {event.step for event in events if event.step is not None}:
            told = [event for event in events if event.step == step]
            _judge_step(verdict, f"{row.id} {step}", step, told, by_step.pop((row.id, step), []))
    verdict.wrong += [f"{workflow} {step} ran and nobody knows" for workflow, step in by_step]
    arrived = Counter(one["number"] for one in received)
    taken = {one["number"] for one in accepted}
    verdict.messages = len(taken)
    verdict.lost = sorted(taken - arrived.keys())
    verdict.repeated = sum(count > 1 for count in arrived.values())
    return verdict


def _judge_end(verdict: Verdict, row: WorkflowRow, events: Sequence[EventRow]) -> None:
    if row.status == "completed":
        output = events[-1].data.get("output")
        if output == OUTPUT:
            verdict.finished += 1
        else:
            verdict.wrong.append(f"{row.id} gave {output!r} instead of {OUTPUT}")
    elif row.status == "uncertain":
        last = {event.step: event for event in events if event.step is not None}
        waits = [name for name, event in last.items() if event.kind == "step_uncertain"]
        if waits and ONCE.issuperset(waits):
            verdict.uncertain += 1
        else:
            verdict.wrong.append(f"{row.id} stands as uncertain for {waits}")
    else:
        verdict.wrong.append(f"{row.id} is {row.status}: {row.error}")


def _judge_step(
    verdict: Verdict,
    name: str,
    step: str,
    events: Sequence[EventRow],
    runs: Sequence[Mapping[str, Any]],
) -> None:
    kinds = [event.kind for event in events]
    done = kinds.index("step_completed") if "step_completed" in kinds else None
    if done is not None:
        if "step_started" in kinds[done:] or kinds.count("step_completed") > 1:
            verdict.rerun.append(f"{name}: {kinds}")
        verdict.rerun += [
            f"{name} ran {run['at'] - events[done].at:.3f} s after it had completed"
            for run in runs
            if run["at"] > events[done].at
        ]
    begun = {event.attempt: event.at for event in events if event.kind == "step_started"}
    for run in runs:
        if run["at"] < begun.get(run["attempt"], float("inf")):
            verdict.wrong.append(f"{name}: attempt {run['attempt']} ran before it was committed")
    allowed = 1 + kinds.count("step_released")
    if step in ONCE and len(runs) > allowed:
        verdict.wrong.append(f"{name} ran {len(runs)} times and may run {allowed} times")
