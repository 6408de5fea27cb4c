"""What a decision is to pay of a machine, and what follows for its reward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rl.features import CONTEXT, OPTION
from rl.live.log import Log, LoggedDecision, LoggedFleet, LoggedWorkflow
from rl.live.machine_costs import last_decisions, machine_seconds
from rl.live.samples import Exposure, exposure_of, samples_of
from rl.promotion import Standing
from rl.regime import Costs
from rl.schema import DIGEST
from tests.unit.rl.live.logs import BEGIN, PRICE, decision_of

BOOT, TAIL, MOST = 90.0, 900.0, 3600.0
NAMES = ("home", "machine 0", "machine 1", "machine 2", "buy", "wait")
HOME, MACHINE, BUY, WAIT = 0, 1, 4, 5


def ran(number: int, chosen: int, at: float, end: float, run: float, node: str = "n1") -> Any:
    """A decision whose step ran at a place."""
    place = "local" if chosen == HOME else "spot"
    outcome = {"place": place, "seconds": end - at, "ended_at": BEGIN + end, "run_seconds": run,
               "node": node}  # fmt: skip
    return decision_of(
        number, at=BEGIN + at, chosen=chosen, options=NAMES, mask=(True,) * 6,
        outcome=None if chosen == WAIT else outcome,
    )  # fmt: skip


def test_the_parts_of_a_machine_are_the_whole_of_it() -> None:
    story = [
        ran(0, BUY, 0.0, 290.0, 200.0),  # from 90 to 290
        ran(1, MACHINE, 10.0, 250.0, 155.0),  # within it
        ran(2, MACHINE, 100.0, 390.0, 200.0),  # 100 s longer
        ran(3, MACHINE, 600.0, 690.0, 90.0),  # after it stood idle
        ran(4, HOME, 0.0, 50.0, 50.0, "head"),
    ]
    found = machine_seconds(story, BOOT, TAIL, MOST)
    assert found == {"d0": 200.0 + BOOT + TAIL, "d1": 0.0, "d2": 100.0, "d3": 300.0}
    assert sum(found.values()) == 690.0 + TAIL, "from the order to its end"


def test_another_machine_is_another_bill() -> None:
    story = [ran(0, BUY, 0.0, 190.0, 100.0), ran(1, BUY, 0.0, 190.0, 100.0, "n2")]
    assert set(machine_seconds(story, BOOT, TAIL, MOST).values()) == {100.0 + BOOT + TAIL}
    late = [ran(0, BUY, 0.0, 190.0, 100.0), ran(1, MACHINE, 9000.0, 9100.0, 100.0)]
    assert machine_seconds(late, BOOT, TAIL, MOST)["d1"] == 100.0 + TAIL, "kept for other reasons"
    assert machine_seconds([ran(0, MACHINE, 0.0, 9e4, 9e4)], BOOT, TAIL, MOST) == {"d0": MOST}


def test_an_attempt_that_was_lost_is_paid_for_too() -> None:
    lost = ran(0, BUY, 0.0, 290.0, 0.0, "")
    lost.outcome.pop("run_seconds")
    assert machine_seconds([lost], BOOT, TAIL, MOST) == {"d0": 200.0 + BOOT + TAIL}


def waiting(at: float, number: int, item: int | None = None) -> LoggedDecision:
    return decision_of(
        number, at=BEGIN + at, chosen=WAIT, options=NAMES, mask=(True,) * 6, outcome=None,
        workflow_id="wf-0", details={"item": item},
    )  # fmt: skip


def test_who_waits_is_told_where_the_wait_ended() -> None:
    bought = ran(0, BUY, 60.0, 400.0, 200.0)
    story = [waiting(0.0, 7), waiting(30.0, 8), waiting(30.0, 9, item=1), bought, waiting(99.0, 10)]
    assert {id_: one.id for id_, one in last_decisions(story).items()} == {"d7": "d0", "d8": "d0"}


def asked(decision: LoggedDecision, **details: Any) -> LoggedDecision:
    """As the learned router writes it."""
    told = {
        "schema": DIGEST, "policy_hash": "p", "by": "tuned", "stage": "canary",
        "chosen_by_policy": decision.chosen, "shadow_chosen": HOME, "exploration": 0.03,
        "forced": "", "costs": [0.1] * 6, "context": [0.0] * len(CONTEXT),
        "option_features": [[0.0] * len(OPTION)] * 6, **details,
    }  # fmt: skip
    return replace(decision, details=told)


def rewards(*decisions: LoggedDecision) -> list[float]:
    flow = LoggedWorkflow("wf-0", "flow", BEGIN, "completed", 2, (), BEGIN + 400.0)
    log = Log(decisions, (flow,), LoggedFleet((), 0, (BOOT,), PRICE))
    rows = samples_of(log, "p", BEGIN + 9000.0, Costs(hour_of_priority=3600.0, miss=0.0), TAIL)
    return [float(one) for one in rows.reward]


def test_a_reward_holds_all_that_a_purchase_costs() -> None:
    bought = asked(ran(0, BUY, 60.0, 400.0, 250.0))
    dollars = (250.0 + BOOT + TAIL) / 3600.0 * PRICE
    assert rewards(bought) == [pytest.approx(-340.0 - dollars)]
    waited = asked(waiting(0.0, 7))
    found = rewards(waited, bought)
    assert found == pytest.approx([-400.0 - dollars, -340.0 - dollars]), "it led to that"


def test_what_a_policy_has_done_in_its_stage() -> None:
    rows = (
        asked(decision_of(0), by="learned"),
        asked(decision_of(1), by="learned"),
        asked(decision_of(9, workflow_id="wf-1"), by="learned"),
        asked(decision_of(2), by="learned", fallback="an option lies beyond its range"),
        asked(decision_of(3)),
        asked(decision_of(4), by="learned", stage="half"),
        asked(decision_of(5), by="learned", policy_hash="q"),
        asked(decision_of(6, at=BEGIN - 1.0), by="learned"),
        asked(decision_of(7), shadow_chosen=None),
        decision_of(8, details=None),
    )
    standing = Standing("canary", policy="p", since=BEGIN)
    assert exposure_of(Log(rows), standing) == Exposure(asked=5, workflows=2)
