"""What is done about agents that fail: pauses, limits, escalation, and who is blamed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agents.reports import AgentReport, HostReport
from actors.supervisor import (
    BLOCKED_SECONDS,
    LOST_THREADS,
    OVERDUE_SECONDS,
    RestartPolicy,
    Step,
    Supervisor,
    judge,
    to_blame,
)
from ironcliw.errors import SettingsError


def test_pauses_grow_and_end_in_isolation_and_then_in_giving_up() -> None:
    supervisor = Supervisor(RestartPolicy(restarts=4, first_pause=1, factor=2, longest_pause=3))
    shared = [supervisor.failed("a", 0.1 * i, isolated=False) for i in range(5)]
    assert [(d.step, d.pause) for d in shared] == [
        (Step.RESTART, 0.0),
        (Step.RESTART, 1.0),
        (Step.RESTART, 2.0),
        (Step.RESTART, 3.0),
        (Step.ISOLATE, 0.0),
    ]
    alone = [supervisor.failed("a", 1.0, isolated=True).step for _ in range(5)]
    assert alone == [Step.RESTART] * 4 + [Step.GIVE_UP]


def test_old_failures_are_forgiven() -> None:
    supervisor = Supervisor(RestartPolicy(restarts=2, within_seconds=10))
    steps = [supervisor.failed("a", 6.0 * i, isolated=True) for i in range(20)]
    assert {d.step for d in steps} == {Step.RESTART}


def test_agents_are_counted_apart_and_forgotten() -> None:
    supervisor = Supervisor(RestartPolicy(restarts=1))
    assert supervisor.failed("a", 0.0, isolated=True).step is Step.RESTART
    assert supervisor.failed("b", 0.0, isolated=True).step is Step.RESTART
    supervisor.forget("a")
    assert supervisor.failed("a", 0.0, isolated=True).step is Step.RESTART
    assert supervisor.failed("b", 0.0, isolated=True).step is Step.GIVE_UP


@given(
    st.integers(1, 8),
    st.lists(st.floats(0, 50), max_size=60),
)
def test_never_more_restarts_than_the_policy_allows(limit: int, gaps: list[float]) -> None:
    policy = RestartPolicy(restarts=limit, within_seconds=100)
    supervisor, now, restarts = Supervisor(policy), 0.0, list[float]()
    for gap in gaps:
        now += gap
        decision = supervisor.failed("a", now, isolated=True)
        assert 0 <= decision.pause <= policy.longest_pause
        if decision.step is Step.GIVE_UP:
            return
        restarts.append(now)
        assert sum(at > now - 100 for at in restarts) <= limit


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"restarts": 0}, "restarts is 0; give 1 or more"),
        ({"within_seconds": 0}, "within_seconds is 0; give a finite number above 0"),
        ({"factor": float("inf")}, "factor is inf"),
    ],
)
def test_bad_policies(given_: dict[str, float], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        RestartPolicy(**given_)  # type: ignore[arg-type]


def report(*agents: AgentReport, blocked: float = 0.0, by: str | None = None) -> HostReport:
    return HostReport("h", "n", 1, 1, blocked, by, list(agents))


def test_a_host_that_fares_well_is_left_alone() -> None:
    fine = report(AgentReport("a", overdue_seconds=OVERDUE_SECONDS / 2), blocked=1.0)
    verdict = judge(fine, alone=False)
    assert verdict.kill is None
    assert verdict.to_blame == {}


def test_whoever_blocks_the_loop_is_blamed_and_the_process_goes() -> None:
    verdict = judge(report(AgentReport("a"), blocked=BLOCKED_SECONDS, by="a"), alone=False)
    assert verdict.kill is not None
    assert "stood still for 5.0 s" in verdict.kill
    assert list(verdict.to_blame) == ["a"]


def test_one_that_hangs_or_failed_is_blamed_and_its_neighbours_stay() -> None:
    agents = [
        AgentReport("hangs", overdue_seconds=OVERDUE_SECONDS),
        AgentReport("failed", failed="out of memory"),
        AgentReport("fine"),
    ]
    verdict = judge(report(*agents), alone=False)
    assert verdict.kill is None
    assert verdict.to_blame == {
        "hangs": "it hangs: a message is 5.0 s past its time",
        "failed": "out of memory",
    }


def test_a_host_whose_threads_hang_is_left() -> None:
    hangs = replace(report(AgentReport("a")), lost_threads=LOST_THREADS)
    verdict = judge(hangs, alone=False)
    assert verdict.kill is None
    assert verdict.leave == "8 of its threads hang in methods of agents that are gone"
    assert judge(replace(hangs, lost_threads=LOST_THREADS - 1), alone=False).leave is None


def test_one_that_has_a_process_to_itself_goes_with_it() -> None:
    verdict = judge(report(AgentReport("a", failed="broken")), alone=True)
    assert verdict.kill == "broken"


def test_blame_for_a_process_that_ended_falls_on_those_at_work() -> None:
    last = report(AgentReport("idle"), AgentReport("busy", running=1))
    assert to_blame(last, ["idle", "busy"]) == ["busy"]
    assert to_blame(None, ["a", "b"]) == []
    assert to_blame(None, ["a"]) == ["a"]
