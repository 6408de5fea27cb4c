"""Where requests go, for any history of a cloud that wakes, dies, falls silent and idles."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serve.failover import (
    ASK_SECONDS,
    FRESH_SECONDS,
    LONGEST_REST_SECONDS,
    PATIENCE_SECONDS,
    UNABLE_SECONDS,
    FailoverPolicy,
)
from serve.failover_terms import Attempt, Ending, Failure, GiveUp, Phase, Side, Wait, Want

LOCAL, SPOT = Side.LOCAL, Side.SPOT


def want(placement: Any = "spot", *, fits: bool = True, deadline: float = 100.0) -> Want:
    return Want("m", placement, fits, deadline)


def awake(now: float = 0.0) -> FailoverPolicy:
    policy = FailoverPolicy()
    policy.next(now, want(deadline=now + 100))
    policy.heard(now)
    assert policy.phase is Phase.AWAKE
    return policy


def resting(now: float = 0.0) -> FailoverPolicy:
    policy = awake(now)
    policy.failed(now, "m", Failure(SPOT, Ending.SILENT), now)
    assert policy.phase is Phase.RESTING
    return policy


class TestPlacement:
    @pytest.mark.parametrize(
        ("placement", "fits", "side"),
        [
            ("local", True, LOCAL),
            ("local", False, LOCAL),
            ("auto", True, LOCAL),
            ("auto", False, SPOT),
            ("spot", True, SPOT),
            ("spot", False, SPOT),
        ],
    )
    def test_where_it_belongs(self, placement: str, fits: bool, side: Side) -> None:
        step = awake().next(1.0, want(placement, fits=fits))
        assert isinstance(step, Attempt)
        assert (step.side, step.degraded) == (side, None)

    def test_what_belongs_at_home_wakes_nobody(self) -> None:
        policy = FailoverPolicy()
        for placement in ("local", "auto"):
            policy.next(0.0, want(placement))
        assert policy.phase is Phase.ASLEEP

    def test_home_answers_while_the_cloud_wakes(self) -> None:
        policy = FailoverPolicy()
        step = policy.next(0.0, want())
        assert step == Attempt(LOCAL, 100.0, "spot is waking")
        assert policy.asks

    def test_what_does_not_fit_waits_and_is_told_why(self) -> None:
        policy = FailoverPolicy()
        step = policy.next(0.0, want("auto", fits=False, deadline=10.0))
        assert isinstance(step, Wait)
        assert step.until < 10.0
        last = policy.next(step.until, want("auto", fits=False, deadline=10.0))
        assert isinstance(last, GiveUp)
        assert (last.reason, last.by_state) == ("spot is waking", True)
        assert last.retry_after == pytest.approx(80.1)  # of the 90 s that a start takes

    def test_time_is_kept_for_an_answer_at_home(self) -> None:
        step = awake(50.0).next(50.0, want(deadline=110.0))
        assert isinstance(step, Attempt)
        assert step.deadline == pytest.approx(90.0)
        alone = awake(50.0).next(50.0, want(fits=False, deadline=110.0))
        assert isinstance(alone, Attempt)
        assert alone.deadline == 110.0


class TestOverload:
    FULL = (Failure(LOCAL, Ending.OVERLOADED),)

    def test_goes_to_a_cloud_that_is_awake_and_is_not_degraded(self) -> None:
        assert awake().next(1.0, want("auto"), self.FULL) == Attempt(SPOT, 100.0, None)

    def test_wakes_one_that_sleeps_and_is_refused(self) -> None:
        policy = FailoverPolicy()
        assert isinstance(policy.next(1.0, want("auto"), self.FULL), GiveUp)
        assert policy.asks

    def test_never_leaves_home_where_the_model_is_placed_there(self) -> None:
        policy = awake()
        assert isinstance(policy.next(1.0, want("local"), self.FULL), GiveUp)

    def test_a_cloud_that_is_full_as_well_is_the_end(self) -> None:
        both = (*self.FULL, Failure(SPOT, Ending.OVERLOADED))
        assert isinstance(awake().next(1.0, want("auto"), both), GiveUp)

    def test_a_replica_lost_at_home_is_no_reason_to_be_silent_about(self) -> None:
        step = awake().next(1.0, want("auto"), (Failure(LOCAL, Ending.LOST),))
        assert step == Attempt(SPOT, 100.0, "a local replica was lost")


class TestLoss:
    LOST = Failure(SPOT, Ending.LOST)

    def test_another_replica_is_asked_for_before_it_is_used(self) -> None:
        policy = awake()
        policy.failed(1.0, "m", self.LOST, 0.5)
        assert (policy.phase, policy.asks) == (Phase.WAKING, True)
        assert policy.next(1.0, want(), (self.LOST,)) == Wait(1.0 + ASK_SECONDS)
        policy.heard(1.01)
        step = policy.next(1.01, want(), (self.LOST,))
        assert isinstance(step, Attempt)
        assert step.side is SPOT

    def test_home_answers_where_there_is_no_other(self) -> None:
        policy = awake()
        policy.failed(1.0, "m", self.LOST, 0.5)
        step = policy.next(1.0 + ASK_SECONDS, want(), (self.LOST,))
        assert step == Attempt(LOCAL, 100.0, "spot is waking")

    @pytest.mark.parametrize(("fits", "most"), [(True, 2), (False, 3)])
    def test_a_request_does_not_take_down_every_replica(self, fits: bool, most: int) -> None:
        policy = awake()
        for losses in range(most):
            step = policy.next(0.0, want(fits=fits), (self.LOST,) * losses)
            assert isinstance(step, Attempt)
            assert step.side is SPOT
        step = policy.next(0.0, want(fits=fits), (self.LOST,) * most)
        if fits:
            assert step == Attempt(LOCAL, 100.0, "a spot replica was lost")
        else:
            assert isinstance(step, GiveUp)
            assert not step.by_state

    def test_an_attempt_from_before_says_nothing_of_now(self) -> None:
        policy = awake(5.0)
        policy.failed(6.0, "m", self.LOST, 4.0)
        policy.failed(6.0, "m", Failure(SPOT, Ending.SILENT), 4.0)
        assert policy.phase is Phase.AWAKE


class TestSilence:
    def test_many_that_time_out_together_make_one_rest(self) -> None:
        policy = awake()
        for _ in range(30):
            policy.failed(3.0, "m", Failure(SPOT, Ending.SILENT), 1.0)
        assert policy.reason(3.0) == "spot did not answer in time and rests for 2 s"

    def test_rests_double_to_half_a_minute_until_a_request_is_answered(self) -> None:
        policy, now, rests = awake(), 0.0, []
        for _ in range(6):
            policy.failed(now, "m", Failure(SPOT, Ending.SILENT), now)
            began = now
            while policy.phase is Phase.RESTING:
                now += 0.5
                policy.next(now, want(deadline=now + 9))
            rests.append(now - began)
            policy.heard(now)  # a cheap answer does not make it trusted
        assert rests == [2, 4, 8, 16, 30, LONGEST_REST_SECONDS]
        policy.worked(now)
        policy.failed(now, "m", Failure(SPOT, Ending.SILENT), now)
        assert policy.reason(now) == "spot did not answer in time and rests for 2 s"

    def test_a_probe_without_an_answer_is_another_rest(self) -> None:
        policy = resting()
        policy.next(2.0, want())
        assert policy.asks
        policy.unanswered(4.0)
        assert policy.phase is Phase.RESTING
        assert isinstance(policy.next(7.9, want()), Attempt)
        assert not policy.asks

    def test_a_slow_answer_is_nobodys_fault(self) -> None:
        policy = awake()
        slow = Failure(SPOT, Ending.SLOW)
        policy.failed(2.0, "m", slow, 1.0)
        assert policy.phase is Phase.AWAKE
        step = policy.next(2.0, want(), (slow,))
        assert step == Attempt(LOCAL, 100.0, "spot was too slow for the deadline")

    def test_what_does_not_fit_waits_for_the_end_of_the_rest(self) -> None:
        assert resting().next(0.5, want(fits=False)) == Wait(2.0)


class TestModels:
    def test_one_that_is_loading_is_asked_for_again_in_a_second(self) -> None:
        policy, loading = awake(), Failure(SPOT, Ending.LOADING)
        policy.failed(1.0, "m", loading, 0.9)
        step = policy.next(1.0, want(), (loading,))
        assert step == Attempt(LOCAL, 100.0, "spot is loading the model")
        assert policy.next(1.0, want(fits=False), (loading,)) == Wait(2.0)
        other = policy.next(1.0, Want("other", "spot", True, 100.0))
        assert isinstance(other, Attempt)
        assert other.side is SPOT
        again = policy.next(2.0, want(), (loading,) * 5)
        assert isinstance(again, Attempt)
        assert again.side is SPOT

    def test_one_that_cannot_be_run_is_not_tried_for_a_while(self) -> None:
        policy, unable = awake(), Failure(SPOT, Ending.UNABLE)
        policy.failed(1.0, "m", unable, 0.9)
        assert policy.next(1.0, want()) == Attempt(LOCAL, 100.0, "spot cannot run the model")
        assert isinstance(policy.next(1.0, want(fits=False)), GiveUp)
        policy.heard(1.0 + UNABLE_SECONDS)
        step = policy.next(1.0 + UNABLE_SECONDS, want())
        assert isinstance(step, Attempt)
        assert step.side is SPOT


class TestIdling:
    def test_a_side_not_heard_for_a_while_is_asked_first(self) -> None:
        policy = awake()
        assert isinstance(policy.next(FRESH_SECONDS, want()), Attempt)
        now = FRESH_SECONDS + 0.1
        assert policy.next(now, want()) == Wait(now + ASK_SECONDS)
        assert policy.asks

    def test_nobody_asks_for_ever(self) -> None:
        policy = FailoverPolicy()
        policy.next(0.0, want())
        policy.unanswered(PATIENCE_SECONDS)
        assert policy.asks
        policy.unanswered(PATIENCE_SECONDS + 1)
        assert (policy.phase, policy.asks) == (Phase.ASLEEP, False)


def test_a_passed_deadline_is_the_end() -> None:
    for placement in ("local", "auto", "spot"):
        assert isinstance(awake().next(1.0, want(placement, deadline=1.0)), GiveUp)


ENDINGS = st.sampled_from(list(Ending))
FAILURES = st.lists(st.builds(Failure, st.sampled_from([LOCAL, SPOT]), ENDINGS), max_size=6)


class History(RuleBasedStateMachine):
    """Any order of events; requests run to their end in between, with any outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = FailoverPolicy()
        self.now = 0.0
        self.attempts: list[tuple[float, Attempt, Phase]] = []

    @rule(seconds=st.floats(0.0, 40.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def heard(self) -> None:
        self.policy.heard(self.now)

    @rule()
    def unanswered(self) -> None:
        self.policy.unanswered(self.now)

    @rule(
        placement=st.sampled_from(["auto", "local", "spot"]),
        fits=st.booleans(),
        seconds=st.floats(0.05, 60.0),
        outcomes=st.lists(st.one_of(st.none(), ENDINGS), max_size=6),
        lasting=st.lists(st.floats(0.0, 5.0), min_size=6, max_size=6),
        answers=st.lists(st.booleans(), min_size=6, max_size=6),
    )
    def request(
        self,
        placement: Any,
        fits: bool,
        seconds: float,
        outcomes: list[Ending | None],
        lasting: list[float],
        answers: list[bool],
    ) -> None:
        wanted = Want("m", placement, fits, self.now + seconds)
        preferred = SPOT if placement == "spot" or (placement == "auto" and not fits) else LOCAL
        failures: list[Failure] = []
        given, last = iter(outcomes), itertools.cycle(lasting)
        for answered in itertools.cycle(answers):
            step = self.policy.next(self.now, wanted, failures)
            if isinstance(step, GiveUp):
                self.check_end(step, wanted, failures, preferred)
                return
            if isinstance(step, Wait):
                assert self.now < step.until <= wanted.deadline
                if answered and self.policy.asks:
                    self.policy.heard(self.now)
                else:
                    self.now = step.until
                continue
            self.check(step, wanted, failures, preferred)
            began = self.now
            self.now += min(next(last), step.deadline - self.now)
            ending = next(given, None)
            if ending is None:
                if step.side is SPOT:
                    self.policy.worked(self.now)
                return
            failures.append(Failure(step.side, ending))
            self.policy.failed(self.now, "m", failures[-1], began)
            assert len(failures) <= 40, "it never ends"

    def check(self, step: Attempt, wanted: Want, failures: list[Failure], preferred: Side) -> None:
        assert self.now < step.deadline <= wanted.deadline
        if step.side is SPOT:
            assert self.policy.phase is Phase.AWAKE
            assert wanted.placement != "local"
        overflow = step.side is SPOT and failures and failures[-1].ending is Ending.OVERLOADED
        assert (step.degraded is None) == (step.side is preferred or bool(overflow))
        assert step.degraded != ""
        assert sum([one.side is LOCAL for one in failures]) <= 1

    def check_end(
        self, step: GiveUp, wanted: Want, failures: list[Failure], preferred: Side
    ) -> None:
        assert step.retry_after >= 1.0
        assert step.reason
        if wanted.fits_local and self.now < wanted.deadline:
            assert any(one.side is LOCAL for one in failures), "home was not asked"
        if preferred is LOCAL and not failures:
            assert self.now >= wanted.deadline

    @invariant()
    def a_rest_is_bounded(self) -> None:
        if self.policy.phase is Phase.RESTING:
            assert not self.policy.asks
            assert self.policy.reason(self.now) is not None


History.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestHistory = History.TestCase


@given(failures=FAILURES, fits=st.booleans(), placement=st.sampled_from(["auto", "local", "spot"]))
def test_a_side_at_rest_is_never_asked(failures: list[Failure], fits: bool, placement: Any) -> None:
    step = resting().next(1.0, want(placement, fits=fits), failures)
    assert not (isinstance(step, Attempt) and step.side is SPOT)
