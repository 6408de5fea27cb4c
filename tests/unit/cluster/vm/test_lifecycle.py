from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.vm.lifecycle import Action, Event, Instruction, Kind, Lifecycle, Phase, Timing

TIMING = Timing(notice=30.0, head_gone=60.0, join=100.0)


def actions(instructions: list[Instruction]) -> list[Action]:
    return [each.action for each in instructions if each.action is not Action.REPORT]


def reports(instructions: list[Instruction]) -> list[str]:
    return [each.report for each in instructions if each.action is Action.REPORT]


def running(timing: Timing = TIMING) -> Lifecycle:
    machine = Lifecycle(timing, 0.0)
    assert actions(machine.handle(Event(Kind.TICK), 0.0)) == [Action.START_RAY]
    assert reports(machine.handle(Event(Kind.JOINED, "ab"), 0.0)) == ["joined"]
    return machine


def test_a_preemption_is_drained_handed_over_and_ended_in_time() -> None:
    machine = running()
    first = machine.handle(Event(Kind.PREEMPTED), 10.0)
    assert actions(first) == [Action.WRITE_NOTICE, Action.DRAIN]
    notice, drain = (each for each in first if each.action is not Action.REPORT)
    assert notice.seconds == 28.0
    # the deadline of the drain has passed when the raylet is stopped at 36: restarts are free
    assert drain.seconds == 25.5
    assert reports(machine.handle(Event(Kind.DRAIN_ANSWERED), 10.1)) == ["drained"]
    assert machine.handle(Event(Kind.TICK), 35.9) == []
    assert actions(machine.handle(Event(Kind.TICK), 36.0)) == [Action.STOP_RAYLET]
    assert actions(machine.handle(Event(Kind.RAYLET_GONE), 36.2)) == [Action.POWER_OFF]
    assert machine.phase is Phase.OFF


def test_a_busy_hook_is_given_two_more_seconds() -> None:
    machine = running()
    machine.handle(Event(Kind.PREEMPTED), 0.0)
    machine.handle(Event(Kind.HOOKS_PENDING, names=("actor", "train")), 1.0)
    assert reports(machine.handle(Event(Kind.HOOKS_PENDING, names=("train",)), 2.0)) == [
        "hook_done"
    ]
    assert machine.handle(Event(Kind.TICK), 27.9) == []
    stopped = machine.handle(Event(Kind.TICK), 28.0)
    assert actions(stopped) == [Action.STOP_RAYLET]
    assert stopped[1].message == "train"


def test_a_raylet_that_does_not_go_is_switched_off_with_the_vm() -> None:
    machine = running()
    machine.handle(Event(Kind.PREEMPTED), 0.0)
    machine.handle(Event(Kind.TICK), 26.0)
    assert machine.handle(Event(Kind.TICK), 29.9) == []
    assert actions(machine.handle(Event(Kind.TICK), 30.0)) == [Action.POWER_OFF]


def test_an_idle_node_that_leaves_after_the_drain_ends_the_vm() -> None:
    machine = running()
    machine.handle(Event(Kind.PREEMPTED), 0.0)
    assert actions(machine.handle(Event(Kind.RAYLET_GONE), 1.0)) == [Action.POWER_OFF]


def test_a_drain_that_reached_nobody_is_sent_again_after_a_second() -> None:
    machine = running()
    machine.handle(Event(Kind.PREEMPTED), 0.0)
    assert reports(machine.handle(Event(Kind.DRAIN_FAILED, "x"), 4.0)) == ["drain_failed"]
    assert machine.handle(Event(Kind.TICK), 4.9) == []
    again = machine.handle(Event(Kind.TICK), 5.0)
    assert [(each.action, each.seconds) for each in again] == [(Action.DRAIN, 20.5)]


def test_a_refused_drain_is_not_repeated() -> None:
    machine = running()
    machine.handle(Event(Kind.PREEMPTED), 0.0)
    refused = machine.handle(Event(Kind.DRAIN_ANSWERED, "no", accepted=False), 1.0)
    assert reports(refused) == ["drain_refused"]
    assert machine.handle(Event(Kind.TICK), 20.0) == []


def test_preempted_while_joining_it_drains_when_it_has_joined() -> None:
    machine = Lifecycle(TIMING, 0.0)
    machine.handle(Event(Kind.TICK), 0.0)
    assert actions(machine.handle(Event(Kind.PREEMPTED), 1.0)) == [Action.WRITE_NOTICE]
    assert actions(machine.handle(Event(Kind.JOINED), 3.0)) == [Action.DRAIN]


@pytest.mark.parametrize("kind", [Kind.PREEMPTED, Kind.MISMATCHED, Kind.SHUTDOWN])
def test_whoever_leaves_before_ray_runs_goes_at_once(kind: Kind) -> None:
    machine = Lifecycle(TIMING, 0.0)
    told = machine.handle(Event(kind, "numpy 1 here, 2 on the head"), 0.0)
    assert actions(told) == [Action.WRITE_NOTICE, Action.POWER_OFF]
    assert reports(told) == [kind, "power_off"]
    assert "numpy 1 here" in told[-1].message


def test_a_mismatch_found_late_is_drained_with_its_reason() -> None:
    machine = running()
    told = machine.handle(Event(Kind.MISMATCHED, "Python 3.11.2 here, 3.11.7 on the head"), 5.0)
    assert actions(told) == [Action.WRITE_NOTICE, Action.DRAIN]
    assert told[-1].message == "mismatched: Python 3.11.2 here, 3.11.7 on the head"
    assert machine.deadline == 15.0


def test_a_failed_join_is_tried_again_until_the_time_is_over() -> None:
    machine = Lifecycle(TIMING, 0.0)
    machine.handle(Event(Kind.TICK), 0.0)
    assert machine.handle(Event(Kind.RAYLET_GONE), 1.0) == []
    assert reports(machine.handle(Event(Kind.RAY_EXITED, "code 1"), 2.0)) == ["join_failed"]
    assert machine.handle(Event(Kind.TICK), 6.9) == []
    assert actions(machine.handle(Event(Kind.TICK), 7.0)) == [Action.START_RAY]
    late = machine.handle(Event(Kind.TICK), 100.0)
    assert reports(late) == ["never_joined", "power_off"]
    assert actions(late) == [Action.POWER_OFF]


@pytest.mark.parametrize("kind", [Kind.RAY_EXITED, Kind.RAYLET_GONE])
def test_a_node_that_ends_takes_its_vm_along(kind: Kind) -> None:
    told = running().handle(Event(kind, "it ended by itself"), 50.0)
    assert actions(told) == [Action.POWER_OFF]
    assert told[-1].message == "it ended by itself"


def test_without_the_head_it_leaves_and_asks_nobody_for_a_drain() -> None:
    machine = running()
    machine.handle(Event(Kind.HEAD_ANSWERED), 30.0)
    assert machine.handle(Event(Kind.TICK), 89.9) == []
    told = machine.handle(Event(Kind.TICK), 90.0)
    assert reports(told) == ["head_gone"]
    assert actions(told) == [Action.WRITE_NOTICE]
    assert machine.handle(Event(Kind.TICK), 90.2) == []
    assert actions(machine.handle(Event(Kind.TICK), 96.0)) == [Action.STOP_RAYLET]
    assert actions(machine.handle(Event(Kind.TICK), 100.0)) == [Action.POWER_OFF]


def test_a_second_cause_changes_nothing() -> None:
    machine = running()
    machine.handle(Event(Kind.PREEMPTED), 0.0)
    machine.handle(Event(Kind.DRAIN_ANSWERED), 0.1)
    assert machine.handle(Event(Kind.SHUTDOWN, "SIGTERM"), 1.0) == []
    assert machine.handle(Event(Kind.PREEMPTED), 2.0) == []
    assert machine.deadline == 30.0


EVENTS = st.builds(
    Event,
    kind=st.sampled_from([kind for kind in Kind if kind is not Kind.TICK]),
    message=st.sampled_from(["", "why"]),
    accepted=st.booleans(),
    names=st.sampled_from([(), ("a",), ("a", "b")]),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 40.0)), max_size=10))
def test_every_history_ends_with_one_power_off_in_time(
    history: list[tuple[Event, float]],
) -> None:
    machine, now = Lifecycle(TIMING, 0.0), 0.0
    seen: list[tuple[float, Instruction]] = []
    open_drains = answered = 0

    def handle(event: Event) -> None:
        nonlocal open_drains, answered
        # the shell answers only what was asked
        if event.kind in (Kind.DRAIN_ANSWERED, Kind.DRAIN_FAILED):
            if not open_drains:
                return
            open_drains -= 1
            answered += event.kind is Kind.DRAIN_ANSWERED
        before = machine.deadline
        for each in machine.handle(event, now):
            if each.action is Action.DRAIN:
                assert not answered, "a second drain would overwrite the deadline of the first"
                open_drains += 1
                assert open_drains == 1
            seen.append((now, each))
        assert before is None or machine.deadline == before

    for event, pause in history:
        handle(event)
        until = now + pause
        while now < until:
            now = min(now + 1.0, until)
            handle(Event(Kind.TICK))
    for _ in range(130):
        now += 1.0
        handle(Event(Kind.TICK))
    told = [each.action for _, each in seen]
    assert told[-1] is Action.POWER_OFF
    assert told.count(Action.POWER_OFF) == 1
    assert told.count(Action.WRITE_NOTICE) <= 1
    assert told.count(Action.STOP_RAYLET) <= 1
    if machine.deadline is not None:
        # two ticks of a second each are the grain of this history
        assert seen[-1][0] <= machine.deadline + 2.0
