"""Up by evidence alone, down by any alarm."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import ConflictError, DataError
from rl.promotion import (
    BREACH,
    LEAST_DECISIONS,
    LEAST_SECONDS,
    LEAST_WORKFLOWS,
    MOST_FAILURES,
    SHARES,
    STAGES,
    Evidence,
    Signs,
    Standing,
    advance,
    alarm_of,
    decides,
    from_json,
    install,
    promoted,
    restored,
    rolled_back,
    to_json,
    was_told,
    watch,
)

DIGEST = "ab" * 32
SHADOW = install(Standing(), DIGEST, 100.0)
GOOD = Evidence(1000.0, LEAST_DECISIONS, (0.001, 0.002), "", 0.05, "", LEAST_WORKFLOWS)


def at(stage: Any, **fields: Any) -> Standing:
    return replace(SHADOW, stage=stage, **fields)


def test_it_goes_up_stage_by_stage() -> None:
    standing = SHADOW
    seen = [standing.stage]
    for _ in range(3):
        standing = advance(standing, GOOD)
        seen.append(standing.stage)
    assert seen == ["shadow", "canary", "half", "default"]
    assert advance(standing, GOOD).stage == "default"
    assert "0.0010 to 0.0020 USD a decision by the log" in standing.changes[-1].reason


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        ({"decisions": 999}, "999 decisions in 0.0 days; it takes 1000, or 14 days"),
        ({"misfit": "machines, USD 2 in the simulator and 1 in the log"},
         "the simulator does not fit the log: machines, USD 2"),
        ({"gain": None, "no_verdict": "too few"}, "no verdict: too few"),
        ({"gain": (-0.001, 0.01)}, "lies between -0.0010 and 0.0100 USD, not above 0"),
        ({"gain": (0.0, 0.01)}, "not above 0"),
        ({"replay_gain": None}, "it was not simulated"),
        ({"replay_gain": -0.02}, "in the simulator it costs 0.020 USD a day more"),
        ({"stage_gain": (-0.02, -0.01)}, "in this stage it costs 0.0100 to 0.0200 USD a decision"),
    ],
)  # fmt: skip
def test_what_is_lacking_is_said_and_nothing_is_promoted(
    change: dict[str, Any], lacking: str
) -> None:
    standing = advance(SHADOW, replace(GOOD, **change))
    assert standing.stage == "shadow"
    assert lacking in standing.waits_for


@pytest.mark.parametrize("stage", ["canary", "half"])
def test_a_stage_in_which_it_decides_is_not_left_without_its_having_decided(stage: Any) -> None:
    """What the shadow and other stages have logged is no exposure of this one."""
    late = replace(GOOD, workflows=LEAST_WORKFLOWS - 1, at=100.0 + 2 * LEAST_SECONDS)
    standing = advance(at(stage), late)
    assert standing.stage == stage
    assert standing.waits_for == "it has decided for 99 workflows in this stage; it takes 100"
    assert advance(at(stage), replace(late, workflows=LEAST_WORKFLOWS)).stage != stage
    assert advance(SHADOW, replace(GOOD, workflows=0)).stage == "canary", "it decides for nobody"
    open_ = replace(GOOD, stage_gain=(-0.01, 0.02))
    assert advance(at(stage), open_).stage != stage, "what may be a gain is no veto"


def test_two_weeks_are_as_good_as_a_thousand_decisions() -> None:
    late = replace(GOOD, decisions=3, at=100.0 + LEAST_SECONDS)
    assert advance(SHADOW, late).stage == "canary"
    assert advance(SHADOW, replace(late, at=late.at - 1)).stage == "shadow"


@pytest.mark.parametrize(
    ("signs", "reason"),
    [
        ({"breaches": ("2027-01",)}, "a cap on money was passed: 2027-01"),
        ({"out_of_memory": 2}, "2 steps ran out of memory within a day"),
        ({"cost_ratio": 1.051}, "seven days cost at least 1.05 times what the tuned policy would"),
        ({"bad_numbers": 1}, "1 decisions had features that are no numbers"),
        ({"slow": True}, "it decides in more than 5 ms"),
        ({"bad_file": "policy file x is damaged"}, "policy file x is damaged"),
    ],
)
@pytest.mark.parametrize("stage", ["canary", "half", "default"])
def test_any_alarm_takes_it_off_at_once(signs: dict[str, Any], reason: str, stage: Any) -> None:
    standing = watch(at(stage), Signs(2000.0, **signs))
    assert (standing.stage, standing.base, standing.policy) == ("off", "tuned", DIGEST)
    assert standing.changes[-1].reason.startswith(reason)


@pytest.mark.parametrize(
    "signs", [{}, {"out_of_memory": 1}, {"cost_ratio": 1.05}, {"cost_ratio": None}]
)
def test_what_is_within_bounds_is_no_alarm(signs: dict[str, Any]) -> None:
    assert alarm_of(Signs(1.0, **signs)) == ""
    assert watch(at("default"), Signs(1.0, **signs)) == at("default")


def test_in_the_shadow_only_its_own_faults_are_its_fault() -> None:
    assert watch(SHADOW, Signs(1.0, slow=True)).stage == "off"
    blamed = watch(SHADOW, Signs(1.0, out_of_memory=5))
    assert (blamed.stage, blamed.base) == ("shadow", "rules")


def test_below_the_tuned_policy_are_the_rules_and_nothing_is_below_them() -> None:
    off = watch(at("half"), Signs(1.0, breaches=("2027-01",)))
    rules = watch(off, Signs(2.0, breaches=("2027-02",)))
    assert (rules.stage, rules.base) == ("off", "rules")
    assert watch(rules, Signs(3.0, breaches=("2027-03",))) == rules
    assert watch(off, Signs(2.0, bad_file="gone")) == off, "it does not decide any more"
    assert restored(rules, 4.0).base == "tuned"


@pytest.mark.parametrize("stage", ["off", "shadow"])
def test_what_a_week_cost_is_no_fault_of_the_tuned_policy(stage: Any) -> None:
    """The rules cost 1.5 times as much: the simulator's own error must not bring them back."""
    assert watch(at(stage), Signs(1.0, cost_ratio=1.5)) == at(stage)


def test_a_router_that_fails_again_and_again_is_taken_off() -> None:
    often = Signs(at=5.0, failures=MOST_FAILURES + 1)
    assert watch(Standing(), Signs(at=5.0, failures=MOST_FAILURES)) == Standing()
    found = watch(Standing("half", policy="p"), often)
    assert (found.stage, found.base) == ("off", "tuned")
    found = watch(found, often)
    assert found.base == "rules"
    assert found.changes[-1].reason == "11 decisions failed, as the head's log tells"


def test_a_bad_file_hides_nothing_of_the_system() -> None:
    signs = Signs(1.0, bad_file="gone", out_of_memory=2)
    assert watch(at("off"), signs).base == "rules"
    shadow = watch(SHADOW, signs)
    assert (shadow.stage, shadow.base) == ("off", "rules")
    assert [one.to for one in shadow.changes[-2:]] == ["off", "rules"]
    canary = watch(at("canary"), signs)
    assert (canary.stage, canary.base) == ("off", "tuned"), "the learned one may be to blame"


def test_a_cap_that_was_passed_is_told_once() -> None:
    off = watch(at("half"), Signs(1.0, breaches=("2027-01-31", "2027-01")))
    assert off.changes[-1].reason == f"{BREACH}: 2027-01-31 2027-01"
    again = restored(off, 2.0)
    assert [was_told(again, one) for one in ("2027-01", "2027-01-31")] == [True, True]
    assert not was_told(again, "2027-02")
    assert not was_told(again, "2027-01-3")


def test_by_hand() -> None:
    assert promoted(SHADOW, 1.0).stage == "canary"
    with pytest.raises(ConflictError, match="no policy is installed; give its file"):
        promoted(Standing(), 1.0)
    with pytest.raises(ConflictError, match="decides everywhere already"):
        promoted(at("default"), 1.0)
    off = rolled_back(at("default"), 1.0)
    assert (off.stage, off.base) == ("off", "tuned")
    rules = rolled_back(off, 2.0)
    assert rules.base == "rules"
    with pytest.raises(ConflictError, match="the rules of placement decide already"):
        rolled_back(rules, 3.0)
    assert install(rules, "cd" * 32, 4.0).base == "tuned"


def test_whose_workflow_it_is_does_not_change() -> None:
    names = [f"wf-{number}" for number in range(4000)]
    for stage in STAGES:
        share = sum(decides(at(stage), name, "low") for name in names) / len(names)
        assert share == pytest.approx(SHARES[stage], abs=0.02)
    ours = {name for name in names if decides(at("canary"), name, "low")}
    assert ours <= {name for name in names if decides(at("half"), name, "low")}
    assert not any(decides(at("canary"), name, "normal") for name in names)
    assert not any(decides(replace(at("default"), policy=""), name, "low") for name in names)


def test_it_is_stored_as_json() -> None:
    standing = advance(SHADOW, GOOD)
    assert from_json(json.loads(json.dumps(to_json(standing)))) == standing
    with pytest.raises(DataError, match="the state of routing in the store is of another release"):
        from_json({"stage": "shadow"})
    with pytest.raises(DataError, match="names stage 'moon'"):
        from_json({**to_json(standing), "stage": "moon"})


@given(
    st.lists(
        st.one_of(
            st.builds(
                Evidence,
                st.just(2000.0),
                st.integers(0, 2000),
                st.one_of(st.none(), st.tuples(st.floats(-1, 1), st.floats(-1, 1))),
                st.just("none"),
                st.one_of(st.none(), st.floats(-1, 1)),
                st.sampled_from(["", "misfit"]),
                st.integers(0, 200),
            ),
            st.builds(
                Signs,
                st.just(2000.0),
                st.sampled_from([(), ("2027-01",)]),
                st.integers(0, 3),
                st.one_of(st.none(), st.floats(0.5, 1.5)),
            ),
        ),
        max_size=30,
    )
)
def test_no_story_skips_a_stage_or_survives_an_alarm(story: list[Evidence | Signs]) -> None:
    standing = SHADOW
    for one in story:
        before = standing
        if isinstance(one, Evidence):
            standing = advance(standing, one)
            step = STAGES.index(standing.stage) - STAGES.index(before.stage)
            assert step in (0, 1)
            assert not step or (one.gain is not None and one.gain[0] > 0 and not one.misfit)
        else:
            standing = watch(standing, one)
            if alarm_of(one):
                assert SHARES[standing.stage] == 0
            else:
                assert standing == before


def test_a_state_in_which_the_tuned_policy_had_another_name_is_read() -> None:
    page = to_json(rolled_back(rolled_back(SHADOW, 3.0), 4.0))
    page["base"] = "greedy"
    page["changes"] = [*page["changes"], {"at": 5.0, "to": "greedy", "reason": "by its owner"}]
    found = from_json(page)
    assert found.base == "tuned" and found.changes[-1].to == "tuned"
    assert from_json(to_json(found)) == found
    with pytest.raises(DataError, match="names stage 'off', base 'fast'"):
        from_json({**page, "base": "fast"})
