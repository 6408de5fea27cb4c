"""Every prefix of committed events resumes to the same result; no history breaks a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actors.workflow import machine, outcomes, requests
from actors.workflow.definition import define
from actors.workflow.events import Event
from actors.workflow.machine import Machine
from actors.workflow.units import StepRun, Unit
from tests.unit.actors.workflow.definitions import FAILURES, definitions
from tests.unit.actors.workflow.rules import check, check_end
from tests.unit.actors.workflow.worlds import World

INDEX = st.integers(0, 5)
QUICK = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def world_of(source: dict[str, Any], failures: dict[str, int]) -> World:
    definition = define(source)
    return World(definition, definition.bind({}), failures)


def check_prefixes(source: dict[str, Any], failures: dict[str, int]) -> None:
    whole = world_of(source, failures)
    whole.run_to_the_end()
    check(whole)
    check_end(whole)
    for cut in range(1, len(whole.stored) + 1):
        resumed = world_of(source, failures)
        resumed.stored = whole.stored[:cut]
        resumed.now = resumed.stored[-1].at
        resumed.crash(are_done=False)
        resumed.run_to_the_end()
        check(resumed)
        check_end(resumed)
        assert resumed.machine.finished == whole.machine.finished
        assert resumed.machine.output == whole.machine.output


@QUICK
@given(source=definitions(), failures=FAILURES)
def test_every_prefix_resumes_to_the_same_result(
    source: dict[str, Any], failures: dict[str, int]
) -> None:
    check_prefixes(source, failures)


class Histories(RuleBasedStateMachine):
    """Steps end in any order and manner, users interfere, and the orchestrator dies."""

    @initialize(source=definitions(), failures=FAILURES, deadline=st.none() | st.integers(1, 100))
    def begin(self, source: dict[str, Any], failures: dict[str, int], deadline: int | None) -> None:
        definition = define(source)
        self.world = World(definition, definition.bind({}), failures, deadline)
        self.reference = world_of(source, failures)
        self.reference.run_to_the_end()
        self.is_disturbed = deadline is not None

    @rule(limit=st.integers(1, 4))
    def start(self, limit: int) -> None:
        self.world.start(limit)

    @rule(count=st.integers(1, 5))
    def commit(self, count: int) -> None:
        self.world.commit(count)

    @rule(index=INDEX)
    @precondition(lambda self: self.world.running)
    def finish(self, index: int) -> None:
        self.world.finish(index)

    @rule(
        index=INDEX,
        kind=st.sampled_from(("lost", "moved", "timeout", "unstopped")),
        is_done=st.booleans(),
    )
    @precondition(lambda self: self.world.running)
    def lose(self, index: int, kind: str, is_done: bool) -> None:
        self.is_disturbed |= kind in ("timeout", "unstopped")  # it counts against the retry policy
        self.world.lose(index, kind, is_done=is_done)

    @rule(are_done=st.booleans())
    def crash(self, are_done: bool) -> None:
        self.world.crash(are_done=are_done)

    @rule(seconds=st.floats(0, 50))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def pause(self) -> None:
        self.world.ask(requests.pause)

    @rule()
    def resume(self) -> None:
        self.world.ask(requests.resume)

    @rule()
    def retry_uncertain(self) -> None:
        self.world.retry_uncertain()

    @rule(index=INDEX)
    @precondition(lambda self: self.world.machine.uncertain)
    def skip(self, index: int) -> None:
        units = list(self.world.machine.uncertain)
        unit = units[index % len(units)]
        self.is_disturbed = True
        assert self.world.ask(
            lambda machine, now: requests.skip(machine, unit.step.name, unit.item, None, now)
        )

    @rule()
    @precondition(lambda self: len(self.world.stored) > 6)
    def cancel(self) -> None:
        self.is_disturbed |= self.world.ask(requests.cancel)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            check(self.world)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.run_to_the_end()
        check(world)
        check_end(world)
        losses = [unit.losses for run in world.machine.steps for unit in run.units or ()]
        if not self.is_disturbed and max(losses, default=0) < world.machine.limits.losses:
            assert world.machine.finished == self.reference.machine.finished
            assert world.machine.output == self.reference.machine.output


@pytest.mark.parametrize(
    "examples",
    [100, pytest.param(3000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_no_history_breaks_a_rule(examples: int) -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None),
    )


# ------------------------------------------------------------------ negative controls


def _forgets_second_results(original: Any) -> Any:
    def applied(machine: Machine, unit: Unit, event: Event) -> None:
        data = {} if unit.attempt > 1 else event.data
        original(machine, unit, replace(event, data=data))

    return applied


def _repeats_everything(original: Any) -> Any:
    def recover(machine: Machine, now: float) -> list[Event]:
        for unit in machine.active:
            unit.idempotent = True
        return list(original(machine, now))

    return recover


def _ignores_the_crowd(original: Any) -> Any:
    def admit(run: StepRun) -> list[Unit]:
        run.under_way = 0
        return list(original(run))

    return admit


def _undoes_in_order(original: Any) -> Any:
    def plan(machine: Machine) -> None:
        machine._acted.reverse()
        original(machine)

    return plan


def _starts_while_paused(_original: Any) -> Any:
    return lambda machine, unit: unit in machine.startable


def _forgets_who_may_be_at_it(original: Any) -> Any:
    def turn(machine: Machine, goal: Any, error: Any, at: float) -> None:
        machine.uncertain.clear()
        original(machine, goal, error, at)

    return turn


BUGS: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "recovery repeats what is not idempotent": (outcomes, "recover", _repeats_everything),
    "undoes the first one first": (Machine, "_plan_undo", _undoes_in_order),
    "starts while paused": (Machine, "may_start", _starts_while_paused),
}


@contextmanager
def bug(name: str) -> Iterator[None]:
    owner, attribute, change = BUGS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, attribute, change(getattr(owner, attribute)))
        yield


def test_a_start_while_paused_is_found() -> None:
    """By chance it takes some thousand histories to come upon one like this."""

    def happen() -> None:
        world = world_of(
            {"name": "two", "steps": {"a": {"function": "f"}, "b": {"function": "f"}}}, {}
        )
        world.start(1)
        world.ask(requests.pause)
        world.start(1)
        world.commit(9)
        check(world)

    happen()
    with bug("starts while paused"), pytest.raises(AssertionError, match="workflow is paused"):
        happen()


@pytest.mark.parametrize(
    "name",
    [*list(BUGS)[:-1], pytest.param("starts while paused", marks=pytest.mark.slow)],
)
def test_a_mistake_is_found(name: str) -> None:
    quick = settings(
        max_examples=1000,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,  # the same histories each time: a rare mistake is found always or never
        phases=[Phase.generate],  # found is enough: nobody reads the shortest example
        report_multiple_bugs=False,
    )
    with bug(name), pytest.raises(AssertionError):
        run_state_machine_as_test(Histories, settings=quick)


def test_a_mistake_in_the_fold_is_found_in_a_prefix() -> None:
    source = {
        "name": "two",
        "steps": {
            "a": {"function": "f", "idempotent": True, "retry": {"attempts": 2}},
            "b": {"function": "f", "with": {"a": "${steps.a}"}, "idempotent": True},
        },
    }
    check_prefixes(source, {"a": 1})
    kinds = {**machine._UNIT_EVENTS, "completed": _forgets_second_results(Machine._completed)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "_UNIT_EVENTS", kinds)
        with pytest.raises(AssertionError):
            check_prefixes(source, {})


def test_a_mistake_that_lets_too_many_items_run_is_found() -> None:
    step = {"function": "f", "for_each": [1, 2, 3, 4, 5], "max_parallel": 2}

    def run() -> None:
        world = world_of({"name": "crowd", "steps": {"a": step}}, {})
        for _ in range(3):
            world.start()
            world.commit()
            check(world)
            world.finish()
            world.commit()

    run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepRun, "admit", _ignores_the_crowd(StepRun.admit))
        with pytest.raises(AssertionError):
            run()


def test_a_mistake_that_undoes_beside_what_may_be_at_it_is_found() -> None:
    step = {"function": "f", "compensate": {"function": "undo"}}

    def run() -> None:
        world = world_of({"name": "held", "steps": {"a": step}}, {})
        world.start()
        world.commit()
        world.lose(0, "unstopped", is_done=False)
        world.ask(requests.cancel)
        world.commit()
        world.start()
        world.commit()
        check(world)

    run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "_turn", _forgets_who_may_be_at_it(Machine._turn))
        with pytest.raises(AssertionError, match="undone while something is at it"):
            run()
