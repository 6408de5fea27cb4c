"""What must hold of every history of a workflow, checked from the outside."""

from __future__ import annotations

from collections.abc import Sequence

from actors.workflow.events import Event
from actors.workflow.views import Facts, view_of
from tests.unit.actors.workflow.worlds import Key, World, picture

_ENDS = ("completed", "waived", "skipped")
_UNKNOWN = ("lost", "moved", "restarted", "timeout", "unstopped")


def key_of(event: Event) -> Key:
    assert event.step is not None
    return event.step, event.item, event.kind.startswith("compensation")


def check(world: World) -> None:
    """Raises AssertionError where a rule is broken."""
    check_replay(world)
    check_order(world, world.stored)
    check_starts(world)
    check_held(world.stored)
    check_crowd(world)


def check_replay(world: World) -> None:
    """What was committed, and what is pending, give the state that is in memory."""
    copy = world.fresh()
    for event in (*world.stored, *world.pending):
        copy.apply(event)
    assert picture(copy) == picture(world.machine)


def check_order(world: World, events: Sequence[Event]) -> None:
    """Nothing starts before what it needs, after it was done, while paused, or after the turn."""
    ends = {event.step: index for index, event in enumerate(events) if ends_item(event)}
    done: set[Key] = set()
    attempts: dict[Key, int] = {}
    is_paused = has_turned = False
    for index, event in enumerate(events):
        is_paused = event.kind == "paused" or (is_paused and event.kind != "resumed")
        has_turned |= turns(world, event)
        if event.step is None:
            continue
        key, what = key_of(event), event.kind.partition("_")[2]
        if what == "started":
            assert key not in done, f"{key} was done and is started again"
            assert event.attempt == attempts.get(key, 0) + 1, f"{key}: an attempt is left out"
            assert key[2] == has_turned, f"{key} starts in the wrong direction"
            assert has_turned or not is_paused, f"{key} starts while the workflow is paused"
            attempts[key] = event.attempt
            step = world.definition.steps[world.definition.by_name[key[0]]]
            if not key[2]:
                for need in (world.definition.steps[each].name for each in step.needs):
                    assert ends[need] < index, f"{key} starts before {need} has ended"
        if what in _ENDS:
            done.add(key)


def turns(world: World, event: Event) -> bool:
    """Whether the event ends the way forward."""
    if event.kind in ("cancel_requested", "deadline_passed"):
        return True
    if event.kind not in ("step_failed", "step_timed_out") or "retry_at" in event.data:
        return False
    assert event.step is not None
    step = world.definition.steps[world.definition.by_name[event.step]]
    return step.on_failure == "fail"


def ends_item(event: Event) -> bool:
    """Whether a step, or one item of it, has ended for good."""
    finals = ("step_completed", "step_waived", "step_skipped", "step_failed", "step_timed_out")
    return event.kind in finals and "retry_at" not in event.data


def check_starts(world: World) -> None:
    """What must not be repeated is handed out again only if that is known to be harmless."""
    for key, count in world.started.items():
        step = world.definition.steps[world.definition.by_name[key[0]]]
        call = step.compensate if key[2] else step.call
        assert call is not None
        if not call.idempotent:
            allowed = 1 + world.free[key] + world.granted[key]
            assert count <= allowed, f"{key} was handed out {count} times, {allowed} were allowed"


def check_held(events: Sequence[Event]) -> None:
    """What undoes a step begins after somebody has said that nothing is at it any more."""
    at_it: set[Key] = set()
    for event in events:
        if event.step is None:
            continue
        key, what = key_of(event), event.kind.partition("_")[2]
        if what in ("uncertain", "failed") and event.data["error"]["kind"] == "unstopped":
            at_it.add(key)
        elif what in ("waived", "released"):
            at_it.discard(key)
        elif event.kind == "compensation_started":
            assert (*key[:2], False) not in at_it, f"{key} is undone while something is at it"


def check_crowd(world: World) -> None:
    """No more items run at once than the definition says."""
    for step in world.definition.steps:
        if step.max_parallel is not None:
            running = [key for key, _ in world.running if key[0] == step.name and not key[2]]
            released = sum(world.granted[key] for key in world.granted if key[0] == step.name)
            assert len(running) <= step.max_parallel + released


def check_end(world: World) -> None:
    """What ended without success was undone: all that may have had an effect, the last first."""
    assert world.machine.finished is not None
    assert not world.running
    for step in view_of(world.machine, Facts("me", "normal")).steps:
        assert step.status != "uncertain", f"{step.name} waits for an answer that nobody can give"
    if world.machine.goal is None:
        return
    acted: list[Key] = []
    for event in world.stored:
        if event.step is not None and not event.kind.startswith("compensation"):
            step = world.definition.steps[world.definition.by_name[event.step]]
            key = key_of(event)
            if acts(event) and step.compensate is not None and key not in acted:
                acted.append(key)
    undone = [key_of(e) for e in world.stored if e.kind == "compensation_started"]
    assert list(dict.fromkeys(undone)) == [(step, item, True) for step, item, _ in acted[::-1]]


def acts(event: Event) -> bool:
    """Whether its step may have had an effect."""
    if event.kind in ("step_failed", "step_timed_out"):
        return event.data["error"]["kind"] in _UNKNOWN
    is_whole = event.attempt is None  # a fan-out over nothing has no effect
    return not is_whole and event.kind in ("step_completed", "step_uncertain", "step_cancelled")
