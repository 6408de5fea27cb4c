"""The validation's arithmetic: what is fitted to a log, and what is simulated from it."""

from __future__ import annotations

import pytest

from actors.routing import Option
from benchmarks import routing_replay as replay
from benchmarks.harness import BenchmarkError
from benchmarks.routing_validation import Part, compare, main, off, render
from benchmarks.routing_work import AT_ONCE, ByLength, Piece, Script, compute, scripts
from rl.live.log import Log, LoggedFleet, LoggedStep, LoggedWorkflow

AT_HOME, ON_MACHINE, START = 0.3, 0.7, 12.0
EPOCH = 1.8e9
REPORT = (Piece("gather", 2.0), Piece("crunch", 20.0, 0.0, ("gather",)))
ANSWER = (Piece("look", 2.0),)


def _ran(script: Script, number: int, start: float) -> LoggedWorkflow:
    """As the real system would run it alone; `start`: seconds until there is a machine."""
    now = created = EPOCH + script.at
    steps = []
    for index, one in enumerate(script.pieces):
        beside = ON_MACHINE + start if one.is_long else AT_HOME
        steps.append(
            LoggedStep(
                name=one.name,
                kind="function",
                target="routing.long" if one.is_long else "routing.short",
                needs=(index - 1,) if index else (),
                expected_seconds=one.expected,
                started_at=now,
                ended_at=now + one.expected + beside,
                seconds=one.expected,
                place="spot" if one.is_long else "local",
            )
        )
        now += one.expected + beside
    return LoggedWorkflow(str(number), "routing", created, "completed", 2, tuple(steps), now)


def _part(count: int, gap: float = 30.0) -> Part:
    """Reports, the first of which has to wait for a machine, and answers."""
    plan = [Script(gap * number, REPORT if number % 2 == 0 else ANSWER) for number in range(count)]
    log = [_ran(one, number, START if number == 0 else 0.0) for number, one in enumerate(plan)]
    long = [step for one in log for step in one.steps if step.place == "spot"]
    assert long[0].started_at and long[-1].ended_at
    machine = (long[0].started_at, long[-1].ended_at + 63.0)
    return Part(plan, Log((), tuple(log), LoggedFleet((machine,), 0, (10.0,), 0.06)))


def test_what_is_beside_a_function_is_found() -> None:
    fitted = replay.fit([_part(12).log])
    assert fitted.at_home == pytest.approx(AT_HOME, abs=1e-3)
    assert fitted.on_machine == pytest.approx(ON_MACHINE, abs=1e-3)
    assert fitted.start == pytest.approx(START, abs=1e-3)
    assert fitted.idle == pytest.approx(63.0, abs=1e-3)


def test_what_ran_alone_is_simulated_to_the_second() -> None:
    fitted, real, model = compare([_part(12)], [_part(12), _part(12)])
    assert model.flow == pytest.approx(real.flow, abs=0.01)
    assert model.met == real.met
    assert model.machine_hours == pytest.approx(real.machine_hours, rel=0.01)
    assert model.workflows == 24
    text = render(fitted, real, model, {"date": "today"})
    assert text.count("| yes |") == 3 and "- date: today" in text


def test_what_is_off_is_told() -> None:
    first, second = _part(12), _part(12)
    slow = replay.fit([first.log])
    slow = replay.Fitted(slow.at_home + 5.0, slow.on_machine, slow.start, slow.idle)
    real = replay.measured(second.log, second.scripts)
    model = replay.simulated(second.log, second.scripts, slow)
    assert off(real.flow, model.flow) > 0.10
    assert "| **no** |" in render(slow, real, model, {})


def test_short_steps_wait_for_each_other_at_home() -> None:
    # three at once, two have room: the third begins when the first ends
    plan = [Script(0.0, (Piece("look", 4.0),)) for _ in range(AT_ONCE + 1)]
    log = Log((), tuple(_ran(one, number, 0.0) for number, one in enumerate(plan)))
    found = replay.simulated(log, plan, replay.Fitted(0.5, 0.0, 0.0, 60.0))
    assert found.flow == pytest.approx((4.5 + 4.5 + 9.0) / 3, abs=1e-3)
    assert found.machine_hours == 0.0


def test_a_log_without_machines_or_long_steps_cannot_be_fitted() -> None:
    plan = [Script(0.0, ANSWER)]
    log = Log((), (_ran(plan[0], 0, 0.0),))
    with pytest.raises(BenchmarkError, match=r"no step ran on a machine .*; run for longer"):
        replay.fit([log])


def test_the_script_is_the_same_again_and_has_both_places() -> None:
    first = scripts(3, 200.0, 7.0)
    assert first == scripts(3, 200.0, 7.0) and first != scripts(4, 200.0, 7.0)
    pieces = [piece for one in first for piece in one.pieces]
    assert {piece.is_long for piece in pieces} == {True, False}
    assert all(one.at < 200.0 for one in first)
    definition = first[0].definition()
    assert all(step["place"] == "any" for step in definition["steps"].values())


def test_the_policy_goes_by_length() -> None:
    options, policy = (Option("local"), Option("spot", ready=False)), ByLength()
    short, long = {"expected_seconds": 3.0}, {"expected_seconds": 20.0}
    assert policy.decide(short, options, (True, True)).index == 0
    assert policy.decide(long, options, (True, True)).index == 1
    assert policy.decide(long, options, (True, False)).index == 0


def test_computing_takes_its_time() -> None:
    assert compute(0.02) == pytest.approx(0.02, abs=0.02)


def test_a_run_must_be_long_enough(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--minutes", "2"])
    assert "--minutes is 2; give 5 to 240" in capsys.readouterr().err
