"""Policies that are told everything: what they see, what is refused of them, what is remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from actors.decision_log import Decided
from actors.router import LONGEST_WAIT_SECONDS, Router
from actors.routing import Choice, Option, PlacementPolicy, load_policy
from actors.situation import (
    WAIT,
    EndedFacts,
    HomeFacts,
    MachineFacts,
    MoneyFacts,
    Placement,
    Ready,
    Situation,
    StepFacts,
    Waiting,
)
from actors.workflow.tasks import StepTask
from ironcliw.errors import SettingsError, UnavailableError

NOW = 1_000_000.0


class Facts:
    """A head with room and a cloud with one machine."""

    age = 1.0
    has_cloud = True
    most_machines = 2
    new_machine = MachineFacts("", "booting", 0.0, 30.0, 30.0, 4.0)

    def __init__(self) -> None:
        self.found: list[MachineFacts] = [
            MachineFacts("n1", "ready", NOW - 100, 30.0, 28.0, 4.0, idle_since=NOW - 50)
        ]

    def options(self) -> Sequence[Option]:
        return (Option("local"), Option("spot")) if self.has_cloud else (Option("local"),)

    def memory(self) -> tuple[float, float]:
        return 12.0, 25.0

    def home(self) -> HomeFacts:
        return HomeFacts(16.0, 12.0, 8.0)

    def machines(self) -> Sequence[MachineFacts]:
        return self.found

    def money(self) -> MoneyFacts | None:
        return MoneyFacts(0.06, day_cap=0.4, month_cap=12.0)


class Says:
    """Places everything as it is told, and remembers what it was asked."""

    name = "says"

    def __init__(self, answer: Callable[[Situation], Placement]) -> None:
        self.answer = answer
        self.seen: list[Situation] = []

    def place(self, situation: Situation) -> Placement:
        self.seen.append(situation)
        return self.answer(situation)


class Log:
    """Keeps rows in a list."""

    def __init__(self) -> None:
        self.rows: list[Decided] = []

    def note(self, row: Decided) -> str:
        self.rows.append(row)
        return str(len(self.rows))


def placed(place: str, **fields: Any) -> Placement:
    options = (("home", True), ("machine 0", True), ("wait", True))
    return Placement(place, options=options, policy="says", **fields)


def task(step: str = "s", **changes: Any) -> StepTask:
    fields = {"kind": "function", "target": "f", "attempt": 1, "key": f"w/{step}", **changes}
    return StepTask("w", step, None, inputs={}, **fields)


def router(answer: Callable[[Situation], Placement]) -> tuple[Router, Says, Facts, Any]:
    says, facts, log = Says(answer), Facts(), Log()
    made = Router(says, facts, facts, log, clock=lambda: NOW)  # type: ignore[arg-type]
    return made, says, facts, log


def ask(made: Router, *, may_wait: bool = True, **changes: Any) -> Any:
    return made.ask(task(**changes), Ready(NOW - 3.0), may_wait=may_wait)


def test_a_policy_may_name_a_machine() -> None:
    made, says, _, log = router(lambda _: placed("spot", node="n1", index=1))
    routed = ask(made, memory_gb=2.0, priority="low")
    assert (routed.place, routed.node, routed.decision) == ("spot", "n1", "1")
    [seen] = says.seen
    assert (seen.step.memory_gb, seen.step.priority, seen.may_wait) == (2.0, "low", True)
    assert (seen.home.available_gb, seen.money and seen.money.day_left) == (12.0, 0.4)
    assert log.rows[0].policy == "says"


def test_an_answer_that_cannot_be_noted_is_the_policys_fault() -> None:
    odd: Any = (("home", True, "and more"),)
    made, _, _, log = router(lambda _: replace(placed("spot"), options=odd))
    assert ask(made).place == "local", "the rules decide"
    assert made.failures == 1
    assert [row.policy for row in log.rows] == ["placement"]


def test_what_was_placed_is_there_until_it_has_ended() -> None:
    made, says, _, _ = router(lambda _: placed("spot", node="n1", index=1))
    ask(made, step="a")
    ask(made, step="b")
    [machine] = says.seen[1].machines
    assert [run.target for run in machine.runs] == ["f"]
    assert machine.idle_since is None, "it has work"
    assert made.running("spot") == 2
    made.started(("w/a", 1), "n1")
    made.ended(("w/a", 1))
    ask(made, step="c")
    [machine] = says.seen[2].machines
    assert len(machine.runs) == 1
    assert machine.done == {"f"}, "what it loads is there"


def test_a_machine_that_was_just_asked_for_is_seen_before_it_is_listed() -> None:
    made, says, facts, _ = router(lambda _: placed("spot", index=1))
    facts.found = []
    ask(made, step="a")
    ask(made, step="b")
    assert says.seen[0].machines == ()
    [machine] = says.seen[1].machines
    assert (machine.state, machine.since, len(machine.runs)) == ("booting", NOW, 1)
    facts.found = [replace(Facts.new_machine, since=NOW)]
    ask(made, step="c")
    assert len(says.seen[2].machines) == 1, "it is listed now, and not counted twice"


def test_a_step_may_wait_and_not_for_ever() -> None:
    made, says, _, log = router(lambda _: placed(WAIT, index=2, ask_again_at=NOW + 1e9))
    routed = ask(made)
    assert (routed.place, routed.ask_again_at) == (WAIT, NOW + LONGEST_WAIT_SECONDS)
    assert made.running("local") == made.running("spot") == 0
    ask(made)
    assert len(log.rows) == 1, "asked again about the same, it logs nothing new"
    says.answer = lambda _: Placement(WAIT, options=(("home", False), ("wait", True)), index=1)
    ask(made)
    assert len(log.rows) == 2, "its choice has changed"


@pytest.mark.parametrize(
    ("answer", "changes"),
    [
        (placed("spot"), {"place": "private"}),
        (placed("spot"), {"place": "local"}),
        (placed(WAIT), {"may_wait": False}),
        (placed("moon"), {}),
        (placed("local", propensity=0.0), {}),
        (Placement("local", options=(("home", False), ("wait", True))), {}),
    ],
)
def test_what_is_not_allowed_is_not_done(answer: Placement, changes: dict[str, Any]) -> None:
    made, _, _, log = router(lambda _: answer)
    routed = ask(made, **changes)
    assert routed.place == "local", "the rules decide"
    assert made.failures == 1
    assert log.rows[0].policy == "placement"


def test_a_policy_that_fails_costs_nobody_a_place(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Situation) -> Placement:
        raise ZeroDivisionError

    made, _, _, _ = router(fails)
    assert ask(made).place == "local"
    assert "routing policy 'says' failed; the rules decide" in caplog.text


def test_a_place_that_does_not_exist_is_told() -> None:
    made, says, facts, _ = router(lambda _: placed("local"))
    facts.has_cloud = False
    with pytest.raises(UnavailableError, match="the step's place is 'spot' and this cluster has"):
        ask(made, place="spot")
    assert says.seen == []


def test_arrivals_are_those_of_half_an_hour() -> None:
    now = NOW
    says, facts = Says(lambda _: placed("local")), Facts()
    made = Router(says, facts, facts, None, clock=lambda: now)

    class Submitted:
        kind = "submitted"

    for number in range(3):
        made.note_events(f"w{number}", [Submitted()])
    now += 1799.0
    ask(made)
    now += 2.0
    ask(made, step="later")
    assert [seen.arrivals for seen in says.seen] == [3, 0]


def test_arrivals_do_not_pile_up_where_nobody_asks_for_them() -> None:
    now = NOW
    made = Router(PlacementPolicy(), Facts(), clock=lambda: now)

    class Submitted:
        kind = "submitted"

    for number in range(100):
        now += 60.0
        made.note_events(f"w{number}", [Submitted()])
    assert len(made._around._arrivals) == 31


def test_losses_are_those_of_machines_and_want_of_memory_is_told_apart() -> None:
    made, says, _, _ = router(lambda _: placed("local"))

    def facts() -> tuple[int, int]:
        ask(made)
        step = says.seen[-1].step
        return step.losses, step.out_of_memory

    assert facts() == (0, 0)
    for place, outcome, cause, wanted in (
        ("local", "lost", "WorkerCrashedError", (0, 0)),
        ("spot", "lost", "NodeDiedError", (1, 0)),
        ("spot", "moved", "", (2, 0)),
        ("local", "lost", "OutOfMemoryError", (2, 1)),
        ("spot", "lost", "OutOfMemoryError", (2, 2)),
        ("spot", "error", "", (2, 2)),
        ("spot", "cancelled", "", (2, 2)),
    ):
        made.note_outcome("w/s", place, outcome, cause)
        assert facts() == wanted
    made.note_outcome("w/other", "spot", "lost")
    assert facts() == (2, 2)
    made.note_outcome("w/s", "spot", "ok")
    assert facts() == (0, 0)


def test_a_policy_that_learns_is_told_what_ended_well_and_cannot_stop_the_end() -> None:
    told: list[tuple[str, float, str]] = []

    class Learns(Says):
        def ran(self, ended: EndedFacts, place: str) -> None:
            told.append((ended.target, ended.seconds, place))
            if len(told) > 2:
                raise ValueError("full")

    made = Router(Learns(lambda _: placed("spot")), Facts(), clock=lambda: NOW)
    ask(made)
    made.ended(("w/s", 1), 4.0)
    ask(made)
    made.ended(("w/s", 1))  # how long is not known, as after a failure
    made.ended(("w/s", 1), 9.0)  # has no place any more
    ask(made)
    made.ended(("w/s", 1), 5.0)
    assert told == [("f", 4.0, "spot"), ("f", 5.0, "spot")]
    ask(made)
    made.ended(("w/s", 1), 6.0)
    assert made.failures == 1
    assert made.running("spot") == 0


class Coin:
    """A simple policy goes on working."""

    name = "coin"

    def decide(self, features: Any, options: Any, mask: Any) -> Choice:
        assert features["running_local"] == 0.0
        return Choice(1, 0.5)


def test_a_simple_policy_is_asked_as_before() -> None:
    made = Router(Coin(), Facts())
    assert not made.may_wait
    assert ask(made, may_wait=False).place == "spot"


def test_policies_of_both_kinds_are_loaded() -> None:
    assert isinstance(load_policy("actors.routing:PlacementPolicy"), PlacementPolicy)
    with pytest.raises(SettingsError, match=r"is no RouterPolicy; it needs .*`place\(situation\)`"):
        load_policy("actors.router:LONGEST_WAIT_SECONDS")


def waiting(*steps: str, **changes: Any) -> list[Waiting]:
    return [Waiting(task(step, **changes), Ready(NOW - 3.0)) for step in steps]


def test_in_a_round_each_is_told_of_the_others_as_of_one_moment() -> None:
    ticks = iter(range(1000))
    says, facts = Says(lambda seen: placed("local" if seen.step.step == "a" else WAIT)), Facts()
    made = Router(says, facts, facts, clock=lambda: NOW + next(ticks))
    asked, held = waiting("a", "b"), waiting("c")
    with made.round(asked, held):
        for step, ready in asked:
            made.ask(step, ready, may_wait=True)
    first, second = says.seen
    assert [one.step for one in first.others] == ["a", "b", "c"]
    assert [one.step for one in second.others] == ["b", "c"], "the first has a place"
    assert first.step is first.others[0], "it is one of them"
    assert (first.at, first.machines, len(first.home.runs)) == (second.at, second.machines, 0)
    assert first.machines is second.machines, "nothing has changed there"
    assert [run.target for run in second.home.runs] == ["f"]
    made.ask(asked[1].task, asked[1].ready, may_wait=True)
    assert says.seen[2].at > second.at, "the round is over"
    assert [one.step for one in says.seen[2].others] == ["b", "c"]


def test_one_that_nobody_has_announced_is_among_those_that_wait() -> None:
    made, says, _, _ = router(lambda _: placed("local"))
    ask(made)
    assert [one.step for one in says.seen[0].others] == ["s"]


def test_a_step_on_its_way_to_a_machine_has_not_begun() -> None:
    ticks = iter(range(1000))
    says, facts = Says(lambda _: placed("spot", node="n1", index=1)), Facts()
    made = Router(says, facts, facts, clock=lambda: NOW + next(ticks))
    made.ask(task("a"), Ready(NOW), may_wait=True)
    made.ask(task("b"), Ready(NOW), may_wait=True)
    [run] = says.seen[1].machines[0].runs
    assert (run.has_begun, run.workflow_id) == (False, "w")
    made.started(("w/a", 1), "n1")
    made.ask(task("c"), Ready(NOW), may_wait=True)
    begun, coming = says.seen[2].machines[0].runs
    assert (begun.has_begun, coming.has_begun) == (True, False)
    assert begun.since > run.since, "what it has done counts from there"
    made.ended(("w/a", 1), 12.5)
    made.ended(("w/b", 1), 99.0)
    made.started(("w/c", 1), "n1")
    made.ended(("w/c", 1))
    made.ask(task("d"), Ready(NOW), may_wait=True)
    [ended] = says.seen[3].ended
    assert (ended.target, ended.seconds) == ("f", 12.5), "one has never begun, one has failed"


class Ordered(Says):
    """Has the last first, or what a test says."""

    def __init__(self, order: Callable[[int], Any]) -> None:
        super().__init__(lambda _: placed("local"))
        self.order = order

    def in_order(self, steps: Sequence[StepFacts], at: float) -> Any:
        return self.order(len(steps))


def test_a_policy_may_say_who_is_asked_about_first() -> None:
    facts = Facts()
    ordered = Ordered(lambda count: range(count - 1, -1, -1))
    assert list(Router(ordered, facts, facts).in_order(waiting("a", "b", "c"))) == [2, 1, 0]
    assert list(router(lambda _: placed("local"))[0].in_order(waiting("a", "b"))) == [0, 1]


@pytest.mark.parametrize("order", [lambda count: [0] * count, lambda count: 1 // 0])
def test_an_order_that_leaves_some_out_is_the_policys_fault(
    order: Callable[[int], Any], caplog: pytest.LogCaptureFixture
) -> None:
    made = Router(Ordered(order), Facts(), Facts())
    assert list(made.in_order(waiting("a", "b"))) == [0, 1]
    assert made.failures == 1
    assert "routing policy 'says' failed to say who goes first" in caplog.text
