"""What decisions cost in machines: the whole bill of each machine, shared by who caused it.

As the simulator's ledger does it: who buys pays for the start and for the idle time at the end, and
every step for how much longer the machine lives because of it. The parts of a machine's decisions
add up to its time from the order to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rl.live.log import LoggedDecision
from rl.view import ACTION_NAMES, BUY, WAIT

Key = tuple[str | None, str | None, int | None, int | None]
_BUY, _WAIT = ACTION_NAMES[BUY], ACTION_NAMES[WAIT]


def option_of(decision: LoggedDecision) -> str:
    """Name of what was done."""
    return decision.options[decision.chosen]


def machine_seconds(
    decisions: Iterable[LoggedDecision], boot: float, tail: float, most: float
) -> dict[str, float]:
    """Seconds of machines that each decision is to pay for, by its id; no entry: none.

    Args:
        decisions: With their outcomes.
        boot: Seconds that a machine takes to start.
        tail: Seconds that it is kept without work.
        most: Of a step's own time, that count.
    """
    runs = [(*run, one) for one in decisions if (run := _run_of(one, boot)) is not None]
    done: dict[str, float] = {}
    found: dict[str, float] = {}
    for begin, end, node, one in sorted(runs, key=lambda run: run[:3]):
        until = done.get(node) if node else None
        # without this step the machine would have been given back a tail after the last work
        since = begin if until is None else max(until, begin - tail)
        found[one.id] = min(max(0.0, end - since), most)
        if option_of(one) == _BUY:
            found[one.id] += boot + tail
        done[node] = end if until is None else max(until, end)
    return found


def last_decisions(decisions: Sequence[LoggedDecision]) -> dict[str, LoggedDecision]:
    """Of each decision to wait, by its id, the one that ended the wait; no entry: none did."""
    found: dict[str, LoggedDecision] = {}
    place: dict[Key, LoggedDecision] = {}
    for one in sorted(decisions, key=lambda one: one.at, reverse=True):
        key = _key(one)
        if option_of(one) != _WAIT:
            place[key] = one
        elif key in place:
            found[one.id] = place[key]
    return found


def _key(decision: LoggedDecision) -> Key:
    item = (decision.details or {}).get("item")
    return decision.workflow_id, decision.step, decision.attempt, item


def _run_of(decision: LoggedDecision, boot: float) -> tuple[float, float, str] | None:
    """(begin, end, node) on a machine, the node empty where it is not known; None: it was none."""
    outcome = decision.outcome or {}
    if outcome.get("place") != "spot":
        return None
    whole = float(outcome.get("seconds") or 0.0)
    end = float(outcome.get("ended_at") or decision.at + whole)
    waited = boot if option_of(decision) == _BUY else 0.0
    seconds = outcome.get("run_seconds")
    seconds = max(0.0, whole - waited) if seconds is None else float(seconds)
    return end - seconds, end, str(outcome.get("node") or "")
