"""From a submitted workflow to the log, the fit, the promotion and the way back. No Ray."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from actors.workflow.tasks import StepError
from ironcliw.errors import ConflictError, DataError, NotFoundError
from ironcliw.settings import load_settings
from ironcliw.store import Store
from rl.effects import EFFECTS
from rl.live.explaining import explained, status_of
from rl.live.log import lines_of, parse_log
from rl.live.mattered import COST
from rl.live.nightly import night, read_night
from rl.live.samples import samples_of
from rl.live.state import change, read_standing, write_standing
from rl.live.stored_log import stored_log
from rl.live.upkeep import Upkeep
from rl.policy import NumpyPolicy, policy_path
from rl.promotion import Standing, install, promoted, rolled_back
from rl.schema import DIGEST
from rl.view import FIRST_MACHINE
from tests.unit.rl.live.situations import install as install_file
from tests.unit.rl.live.situations import policy_of
from tests.unit.rl.live.worlds import World, world
from tests.waiting import until


def logged(one: World, since: float = 0.0) -> Any:
    with one.store.read() as connection:
        return stored_log(connection, since, time.time() + 1)


def stand(one: World, work: Any) -> Standing:
    with one.store.write() as connection:
        return change(connection, work)


async def test_steps_are_placed_and_logged_with_what_came_of_them(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        await one.complete(memory_gb=2.0, expected_seconds=30.0)
        await one.complete(memory_gb=9.5, expected_seconds=30.0)
        assert one.work.places == [("s", "local", ""), ("s", "spot", "n1")]
        log = logged(one)
    first, second = log.decisions
    assert (first.options[first.chosen], second.options[second.chosen]) == ("home", "machine 0")
    assert second.details["masked"]["home"] == "its memory may not fit beside the reserve"
    assert second.outcome["place"] == "spot"
    assert (second.outcome["run_seconds"], second.outcome["node"]) == (20.0, "n1")
    assert second.outcome["peak_bytes"] == 500_000_000
    assert second.outcome["cpu_seconds"] == 7.5
    [step] = log.workflows[1].steps
    assert (step.target, step.place, step.seconds, step.peak_gb) == ("f", "spot", 20.0, 0.5)
    assert parse_log(lines_of(log), "x") == log


async def test_a_step_waits_until_there_is_memory(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        one.facts.found, one.facts.available = [], 3.0
        definition = {"name": "flow", "steps": {"s": {"function": "f", "place": "private",
                                                      "memory_gb": 4.0}}}  # fmt: skip
        sent = await one.orchestrator.submit(definition)
        await until(lambda: one.orchestrator.queued == 1)
        view = await one.orchestrator.get(sent.id)
        assert view.steps[0].status == "ready"
        one.facts.available = 12.0
        one.orchestrator.something_happened()
        assert (await one.orchestrator.wait(sent.id, 20)).status == "completed"
        assert one.work.places == [("s", "local", "")]


async def test_a_decision_is_explained(tmp_path: Path) -> None:
    digest = install_file(tmp_path, policy_of(50.0, favourite=FIRST_MACHINE))
    policy = NumpyPolicy(tmp_path)
    policy.stand(Standing("default", policy=digest))
    async with world(tmp_path, policy) as one:
        [workflow] = await one.complete(memory_gb=2.0, expected_seconds=30.0)
        with one.store.read() as connection:
            [page] = explained(tmp_path, connection, workflow, "s")
            assert explained(tmp_path, connection, page["id"][:12]) == [page]
            with pytest.raises(NotFoundError, match="no decision of '%' is logged"):
                explained(tmp_path, connection, "%")
            with pytest.raises(NotFoundError, match="no decision of '' is logged"):
                explained(tmp_path, connection, "")
            with pytest.raises(NotFoundError, match="no decision of 'nobody' is logged for its"):
                explained(tmp_path, connection, "nobody", "s")
    options = {option["name"]: option for option in page["options"]}
    assert options["machine 0"]["is_chosen"]
    assert options["machine 0"]["score"] > options["home"]["score"]
    assert options["home"]["cost"] < options["machine 0"]["cost"] < 1.0
    assert options["buy"]["refused"] == "a machine has room, and Ray would start it there"
    assert page["why"] == f"by learned {digest[:12]}"
    assert page["mattered"][0]["feature"] in ("option's is_machine_0", "option's is_home")
    assert "the policy in the shadow would have taken: home" in page["lines"]
    policy_path(tmp_path, digest).unlink()
    with one.store.read() as connection:
        assert explained(tmp_path, connection, workflow)[0]["mattered"] == []


async def test_what_was_learned_of_effects_is_explained(tmp_path: Path) -> None:
    weights = np.zeros(len(EFFECTS), dtype=np.float32)
    weights[EFFECTS.index("home")] = -40.0  # of a cent, in scores of a cent
    policy = NumpyPolicy(tmp_path)
    digest = install_file(tmp_path, replace(policy_of(), effects=weights))
    policy.stand(Standing("default", policy=digest))
    async with world(tmp_path, policy) as one:
        [workflow] = await one.complete(memory_gb=2.0, expected_seconds=30.0)
        with one.store.read() as connection:
            [page] = explained(tmp_path, connection, workflow, "s")
    found = {each["feature"]: each["by"] for each in page["mattered"]}
    assert page["chosen"] == "home"
    assert found.keys() == {"effect home", COST}
    assert found["effect home"] == pytest.approx(40.0)
    scores = [each["score"] for each in page["options"] if each["score"] is not None]
    best, other = sorted(scores, reverse=True)[:2]
    assert sum(found.values()) == pytest.approx(best - other, abs=1e-3)
    assert "mattered: effect home +40.000, expected cost " in " ".join(page["lines"])
    assert any(line.startswith("home is believed to cost: time 0.0") for line in page["lines"])


async def test_a_running_router_follows_the_standing_in_the_store(tmp_path: Path) -> None:
    digest = install_file(tmp_path, policy_of(50.0, favourite=FIRST_MACHINE))
    async with world(tmp_path) as one:
        upkeep = Upkeep(one.policy, one.journal)
        stand(one, lambda old: install(old, digest, 1.0))
        await upkeep.round()
        await one.complete(expected_seconds=30.0)
        for _ in range(3):
            stand(one, lambda old: promoted(old, 2.0))
        await upkeep.round()
        await one.complete(expected_seconds=30.0)
        stand(one, lambda old: rolled_back(old, 3.0))
        await upkeep.round()
        await one.complete(expected_seconds=30.0)
        assert [place for _, place, _ in one.work.places] == ["local", "spot", "local"]


@pytest.mark.parametrize("is_logged", [True, False])
async def test_alarms_take_a_policy_off_without_anybody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_logged: bool
) -> None:
    digest = install_file(tmp_path, policy_of())
    async with world(tmp_path, is_logged=is_logged) as one:
        now = time.time()
        stand(one, lambda old: replace(install(old, digest, now - 60), stage="half"))
        upkeep = Upkeep(one.policy, one.journal)
        await upkeep.round()
        assert one.policy.standing.stage == "half"

        class OutOfMemoryError(Exception):
            pass

        error = StepError("lost", "its process was ended", retryable=False)
        error.__cause__ = OutOfMemoryError()
        one.work.error = error
        # the router hears of the last one with the next question
        await one.complete(3, expected_seconds=30.0, idempotent=False)
        signs = await upkeep.signs(one.policy.standing, time.time())
        assert signs.out_of_memory >= 2
        later = Upkeep(one.policy, one.journal, clock=lambda: time.time())
        await later.round()
        assert (one.policy.standing.stage, one.policy.standing.base) == ("off", "tuned")
        with one.store.read() as connection:
            standing, _ = read_standing(connection)
    assert "steps ran out of memory within a day" in standing.changes[-1].reason
    assert "routing falls back to the tuned policy" in caplog.text


async def test_a_bad_file_is_an_alarm_too(tmp_path: Path) -> None:
    digest = install_file(tmp_path, policy_of())
    policy_path(tmp_path, digest).write_bytes(b"no policy")
    async with world(tmp_path) as one:
        stand(one, lambda old: install(old, digest, 1.0))
        await Upkeep(one.policy, one.journal).round()
        assert one.policy.standing.stage == "off"
        assert "is no policy file" in one.policy.standing.changes[-1].reason


async def test_the_standing_is_changed_by_compare_and_set(tmp_path: Path) -> None:
    async with world(tmp_path) as one:
        stand(one, lambda old: install(old, "ab" * 32, 1.0))
        with one.store.write() as connection:
            standing, version = read_standing(connection)
            write_standing(connection, replace(standing, waits_for="x"), version)
            with pytest.raises(ConflictError, match="was changed meanwhile; ask again"):
                write_standing(connection, standing, version)
            with pytest.raises(ConflictError, match="was changed meanwhile; ask again"):
                write_standing(connection, standing, 0)


async def test_samples_come_from_the_log_and_say_why_others_do_not(tmp_path: Path) -> None:
    digest = install_file(tmp_path, policy_of(50.0, favourite=FIRST_MACHINE))
    policy = NumpyPolicy(tmp_path, exploration=0.05)
    policy.stand(Standing("shadow", policy=digest))
    async with world(tmp_path, policy) as one:
        await one.complete(20, expected_seconds=30.0)
        log, later = logged(one), time.time() + 4000.0
    rows = samples_of(log, digest, later)
    assert len(rows.action) == len(log.decisions) == 20
    assert (rows.chosen == FIRST_MACHINE).all()
    assert rows.reward.max() <= 0.0
    assert (rows.propensity > 0.9).sum() >= 15
    for change_, message in (
        ({"schema": "older"}, "20 have the features of another schema (older)"),
        ({"policy_hash": "other"}, "20 did not ask this policy"),
        ({"context": [None] * 3}, "20 have a feature that is no number"),
        ({"forced": "yes"}, "20 were forced, or made by the rules"),
    ):
        damaged = replace(
            log,
            decisions=tuple(
                replace(each, details={**each.details, **change_}) for each in log.decisions
            ),
        )
        with pytest.raises(DataError, match=message.replace("(", r"\(").replace(")", r"\)")):
            samples_of(damaged, digest, later)
    with pytest.raises(DataError, match="20 are less than an hour old"):
        samples_of(log, digest, time.time())
    assert log.decisions[0].details["schema"] == DIGEST


async def test_a_night_with_little_to_learn_from_says_so(tmp_path: Path) -> None:
    settings = load_settings(state_dir=str(tmp_path))
    digest = install_file(tmp_path, policy_of())
    async with world(tmp_path) as one:
        stand(one, lambda old: install(old, digest, 1.0))
        await one.complete(3, expected_seconds=30.0)
        night(settings, one.store, time.time())
        with one.store.read() as connection:
            kept = read_night(connection)
            page = status_of(settings, connection, time.time())
    assert kept is not None
    assert "holds 3 finished steps of functions, a fit needs 30" in kept[1]["why_no_fit"]
    assert any("next stage waits: " in line for line in page["lines"])
    assert any(line.startswith("fit: none yet") for line in page["lines"])
    assert page["last_day"] == {f"decided by {one.policy.base.name}": 3}
    assert not (tmp_path / "routing" / "fit.json").exists()


async def test_a_night_refits_what_is_believed(tmp_path: Path) -> None:
    settings = load_settings(state_dir=str(tmp_path))
    async with world(tmp_path) as one:
        before = one.policy.fit.seconds("f", "local").median
        await one.complete(40, expected_seconds=30.0)
        night(settings, one.store, time.time() + 1)
        one.policy.believe()
        fit = one.policy.fit
    assert fit.steps == 40
    assert fit.seconds("f", "local").median < before
    assert fit.seconds("f", "local").median == pytest.approx(10.0, rel=0.1)


async def test_a_night_judges_the_policy_on_trial_and_promotes_nothing_too_soon(
    tmp_path: Path,
) -> None:
    settings = load_settings(state_dir=str(tmp_path))
    digest = install_file(tmp_path, policy_of(50.0, favourite=FIRST_MACHINE))
    policy = NumpyPolicy(tmp_path, exploration=0.05)
    policy.stand(Standing("shadow", policy=digest))
    async with world(tmp_path, policy) as one:
        stand(one, lambda old: install(old, digest, time.time()))
        await one.complete(40, expected_seconds=30.0)
        later = time.time() + 4000.0
        found = night(settings, one.store, later)
        with one.store.read() as connection:
            standing, _ = read_standing(connection)
            kept = read_night(connection)
    assert found.gain is not None
    assert found.gain.differing == found.gain.decisions == 40
    assert "of equal weight, and 50 are needed" in found.gain.no_verdict
    assert (found.exposure.asked, found.exposure.workflows) == (40, 0)
    assert standing.stage == "shadow"
    assert standing.waits_for == "40 decisions in 0.0 days; it takes 1000, or 14 days"
    assert kept is not None
    assert kept[1]["gain"]["no_verdict"] == found.gain.no_verdict


def test_the_night_is_a_process_of_its_own(tmp_path: Path) -> None:
    settings = load_settings(state_dir=str(tmp_path))
    with Store(settings.store_url) as store:
        store.migrate()
        done = subprocess.run(
            [sys.executable, "-m", "rl.live.nightly"],
            input=pickle.dumps(settings),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        with store.read() as connection:
            kept = read_night(connection)
    assert kept is not None
    assert "holds 0 finished steps" in kept[1]["why_no_fit"]


async def test_a_database_of_the_release_before_keeps_its_decisions(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate()
    row = {
        "id": "d1", "at": 5.0, "workflow_id": "w", "step": "s", "attempt": 1,
        "policy": "placement", "chosen": 1, "propensity": 1.0,
        "features": '{"memory_gb": 2.0, "seconds_left": null}',
        "options": '[{"name": "local", "ready": true}, {"name": "spot", "ready": false}]',
        "masks": "[true, true]", "outcome": '{"outcome": "ok", "seconds": 1.0}',
    }  # fmt: skip
    with store.write() as connection:
        connection.execute(text("DROP TABLE actors_router_states"))
        connection.execute(text("ALTER TABLE actors_decisions DROP COLUMN details"))
        reached = "UPDATE alembic_version SET version_num = 'actors_0001' WHERE version_num = :new"
        assert connection.execute(text(reached), {"new": "actors_0002"}).rowcount == 1
        names = ", ".join(f":{name}" for name in row)
        connection.execute(
            text(f"INSERT INTO actors_decisions ({', '.join(row)}) VALUES ({names})"), row
        )
    store.migrate()
    with store.read() as connection:
        [decision] = stored_log(connection, 0.0, 10.0).decisions
        [page] = explained(tmp_path, connection, "d1")
    assert (decision.options, decision.chosen, decision.details) == (("local", "spot"), 1, None)
    assert (page["chosen"], page["why"], page["mattered"]) == ("spot", "by placement", [])
    store.close()
