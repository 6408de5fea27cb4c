"""The executor of steps: references, the policy's say, large results, and what is told of it."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from actors import functions
from actors.decision_log import DecisionLog
from actors.functions import function
from actors.journal import Journal
from actors.results import Results
from actors.router import Router
from actors.routing import Choice, Option, PlacementPolicy
from actors.situation import Placement, Ready, Situation
from actors.steps.executor import StepExecutor
from actors.steps.kinds import Done
from actors.tables import actors_decisions
from actors.workflow.tasks import REFERENCE_KEY, StepError, StepTask
from ironcliw.errors import OverloadedError, RequestError, StoreError
from ironcliw.store import Store

LOCAL_AND_SPOT = (Option("local"), Option("spot"))


class Echo:
    """Gives its inputs back, or raises what they name."""

    def __init__(self) -> None:
        self.calls: list[tuple[StepTask, str]] = []
        self.node: str | None = None
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.begun = asyncio.Event()

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        self.calls.append((task, place))
        self.begun.set()
        if self.node is not None:
            started(self.node)
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return Done.of(dict(task.inputs), task, node=self.node, place=place)


class Facts:
    def __init__(self, percent: float = 10.0) -> None:
        self.percent = percent

    def options(self) -> Sequence[Option]:
        return LOCAL_AND_SPOT

    def memory(self) -> tuple[float, float]:
        return 64.0, self.percent


class Told:
    def __init__(self) -> None:
        self.attempts: list[tuple[str, str, str]] = []

    def on_attempt(self, kind: str, place: str, outcome: str, seconds: float) -> None:
        self.attempts.append((kind, place, outcome))


class Bench:
    """An executor with parts that a test can look at."""

    def __init__(self, folder: Path, policy: Any = None, log: DecisionLog | None = None) -> None:
        self.echo, self.told, self.facts = Echo(), Told(), Facts()
        self.results = Results(str(folder / "results"), inline_bytes=100, most_bytes=1000)
        self.executor = StepExecutor(
            {"function": self.echo, "http": self.echo},
            self.results,
            policy or PlacementPolicy(),
            self.facts,
            log,
            agent_is_idempotent=lambda target, options: options == {"method": target},
            home="head",
            observer=self.told,
        )

    async def run(self, **changes: Any) -> Any:
        return await self.executor.run(task(**changes))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def task(inputs: Mapping[str, Any] | None = None, **changes: Any) -> StepTask:
    fields = {"kind": "function", "target": "f", "key": "w/s", "attempt": 1, **changes}
    return StepTask("w", "s", None, inputs=inputs or {}, **fields)


async def test_a_small_result_is_a_value(bench: Bench) -> None:
    result = await bench.run(inputs={"a": 1})
    assert (result.value, result.reference, result.place) == ({"a": 1}, None, "local")
    assert bench.told.attempts == [("function", "local", "ok")]


async def test_a_large_result_is_a_reference_that_the_next_step_reads(bench: Bench) -> None:
    value = {"text": "x" * 200}
    first = await bench.run(inputs=value)
    assert (first.value, first.size) == (None, 211)
    reference = {REFERENCE_KEY: first.reference, "size": first.size}
    await bench.run(kind="http", inputs={"before": reference})
    assert bench.echo.calls[-1][0].inputs == {"before": value}


async def test_a_function_reads_large_results_where_it_runs(bench: Bench) -> None:
    reference = {REFERENCE_KEY: "result:w/" + "0" * 64, "size": 60_000_000}
    bench.echo.error = StepError("error", "the call was made")
    with pytest.raises(StepError, match="the call was made"):
        await bench.run(inputs={"before": reference})
    assert bench.echo.calls[-1][0].inputs == {"before": reference}


async def test_a_result_over_the_limit_fails_for_good(bench: Bench) -> None:
    with pytest.raises(StepError, match=r"the result of step s has 1\d\d\d bytes") as caught:
        await bench.run(inputs={"text": "x" * 1000})
    assert (caught.value.failure, caught.value.retryable) == ("oversized", False)
    assert caught.value.acted
    assert bench.told.attempts == [("function", "local", "oversized")]


async def test_a_result_that_is_no_json(bench: Bench) -> None:
    with pytest.raises(StepError, match="set is not JSON serializable") as caught:
        await bench.run(inputs={"a": {1, 2}})
    assert (caught.value.failure, caught.value.acted) == ("invalid", True)


async def test_a_step_whose_result_cannot_be_written_has_acted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise StoreError("no space left on the device")

    monkeypatch.setattr(bench.results, "keep", full)
    with pytest.raises(StepError, match="no space left") as caught:
        await bench.run(inputs={"text": "x" * 200})
    assert (caught.value.failure, caught.value.acted) == ("error", True)
    assert pickle.loads(pickle.dumps(caught.value)).acted, "as it comes from another process"


async def test_what_undoes_a_step_has_done_so_whatever_becomes_of_its_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise StoreError("no space left on the device")

    monkeypatch.setattr(bench.results, "keep", full)
    result = await bench.run(inputs={"text": "x" * 200}, is_compensation=True)
    assert (result.value, result.reference, result.place) == (None, None, "local")
    assert bench.told.attempts == [("function", "local", "ok")]


@pytest.mark.parametrize(
    ("error", "failure", "retryable"),
    [
        (RequestError("no"), "invalid", False),
        (OverloadedError("later", retry_after=7.0), "refused", True),
        (StepError("lost", "gone"), "lost", True),
    ],
)
async def test_errors_become_failures(
    bench: Bench, error: Exception, failure: str, retryable: bool
) -> None:
    bench.echo.error = error
    with pytest.raises(StepError) as caught:
        await bench.run()
    assert (caught.value.failure, caught.value.retryable) == (failure, retryable)
    assert caught.value.retry_after == getattr(error, "retry_after", None)


async def test_a_cancelled_attempt_is_counted_as_one(bench: Bench) -> None:
    bench.echo.hold = asyncio.Event()
    running = asyncio.create_task(bench.run())
    await bench.echo.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.told.attempts == [("function", "local", "cancelled")]


@pytest.mark.parametrize(("reason", "losses"), [("moved", 1), ("left", 1), ("turned", 0)])
async def test_an_attempt_that_is_taken_off_its_machine_has_lost_it(
    tmp_path: Path, reason: str, losses: int
) -> None:
    seen: list[int] = []

    class Away:
        name = "away"

        def place(self, situation: Situation) -> Placement:
            seen.append(situation.step.losses)
            return Placement("spot", options=(("home", True), ("machine 0", True)), index=1)

    bench = Bench(tmp_path, Router(Away(), Facts()))
    bench.echo.hold = asyncio.Event()
    running = asyncio.create_task(bench.run())
    await bench.echo.begun.wait()
    running.cancel(reason)
    with pytest.raises(asyncio.CancelledError):
        await running
    bench.echo.hold.set()
    await bench.run(attempt=2)
    await bench.run(attempt=3)
    assert seen == [0, losses, 0]
    assert bench.told.attempts[0] == ("function", "spot", "moved" if losses else "cancelled")


async def test_where_an_attempt_runs_is_known_while_it_runs(bench: Bench) -> None:
    bench.echo.hold = asyncio.Event()
    running = asyncio.create_task(bench.run())
    await bench.echo.begun.wait()
    assert bench.executor.node_of(task()) == "head"
    bench.executor.started_at("w/s", 1, "elsewhere")
    bench.executor.started_at("w/s", 2, "nobody asked")
    assert bench.executor.node_of(task()) == "elsewhere"
    assert bench.executor.node_of(task(attempt=2)) is None
    bench.echo.hold.set()
    await running
    assert bench.executor.node_of(task()) is None


async def test_the_policy_chooses_for_functions_alone(bench: Bench) -> None:
    bench.facts.percent = 90
    await bench.run()
    await bench.run(kind="http")
    await bench.run(place="private")
    assert [place for _, place in bench.echo.calls] == ["spot", "local", "local"]


class Loaded:
    """Goes to the cloud with an even chance, and says so."""

    name = "loaded"

    def decide(
        self, features: Mapping[str, float], options: Sequence[Option], mask: Sequence[bool]
    ) -> Choice:
        return Choice(1, 0.5, ("a coin",))


async def test_each_decision_is_logged_with_its_outcome(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate()
    journal = Journal(store)
    log = DecisionLog(journal, keep_days=1.0)
    bench = Bench(tmp_path, Loaded(), log)
    await bench.run(memory_gb=2.0)
    await log.flush()
    bench.echo.error = StepError("error", "it broke")
    with pytest.raises(StepError):
        await bench.run(attempt=2)
    await log.flush()
    with store.read() as connection:
        rows = connection.execute(select(actors_decisions).order_by(actors_decisions.c.at)).all()
    assert [(row.policy, row.chosen, row.propensity) for row in rows] == [("loaded", 1, 0.5)] * 2
    assert [row.outcome["outcome"] for row in rows] == ["ok", "error"]
    assert rows[0].features["memory_gb"] == 2.0
    assert rows[0].features["seconds_left"] is None, "JSON has no infinity"
    assert [option["name"] for option in rows[0].options] == ["local", "spot"]
    assert (rows[0].masks, rows[0].workflow_id, rows[0].attempt) == ([True, True], "w", 1)
    await journal.close()
    store.close()


async def test_what_had_no_alternative_is_not_logged(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate()
    journal = Journal(store)
    log = DecisionLog(journal, keep_days=1.0)
    await Bench(tmp_path, log=log).run(place="local")
    await log.flush()
    with store.read() as connection:
        assert connection.execute(select(actors_decisions)).all() == []
    await journal.close()
    store.close()


async def test_an_outcome_that_comes_after_its_row(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate()
    journal = Journal(store)
    log = DecisionLog(journal, keep_days=1.0)
    bench = Bench(tmp_path, Loaded(), log)
    bench.echo.hold = asyncio.Event()
    running = asyncio.create_task(bench.run())
    await bench.echo.begun.wait()
    await log.flush()
    bench.echo.hold.set()
    await running
    await log.flush()
    with store.read() as connection:
        [row] = connection.execute(select(actors_decisions)).all()
    assert row.outcome["outcome"] == "ok"
    await journal.close()
    store.close()


async def test_old_decisions_are_dropped_and_a_store_that_is_away_loses_none(
    tmp_path: Path,
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate()
    journal = Journal(store)
    now = 0.0
    log = DecisionLog(journal, keep_days=1.0, clock=lambda: now)
    bench = Bench(tmp_path, Loaded(), log)
    await bench.run()
    await log.flush()
    now = 90_000.0
    await bench.run(attempt=2)
    await journal.close()
    with pytest.raises(Exception, match="closed"):
        await log.flush()
    journal = Journal(store)
    log._writer = journal
    await log.flush()
    with store.read() as connection:
        assert [row.attempt for row in connection.execute(select(actors_decisions))] == [2]
    await journal.close()
    store.close()


class Everywhere:
    """Places all at home, or has them wait."""

    name = "everywhere"

    def __init__(self) -> None:
        self.place_now = "local"

    def place(self, situation: Situation) -> Placement:
        return Placement(self.place_now, policy=self.name)


def test_a_place_that_nobody_takes_is_free_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Everywhere())
    assert bench.executor.admit(task(), Ready(0.0)) is None
    assert bench.executor.router.running("local") == 1
    bench.executor.forget(task())
    bench.executor.forget(task())
    assert bench.executor.router.running("local") == 0
    assert bench.told.attempts == [("function", "local", "cancelled")]


def test_a_fault_in_what_is_known_of_the_machine_keeps_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Sequence[Option]:
        raise OSError("no such file: /proc/meminfo")

    bench = Bench(tmp_path, Everywhere())
    monkeypatch.setattr(bench.facts, "options", broken)
    assert bench.executor.admit(task(), Ready(0.0)) is None


class Doubtful:
    """A journal whose first commit is made, and not told of."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.commits = 0

    async def commit(self, work: Callable[[Any], Any]) -> Any:
        self.commits += 1
        done = await self._journal.commit(work)
        if self.commits == 1:
            raise StoreError("the server went away")
        return done


async def test_a_commit_that_was_made_all_the_same_is_not_made_twice(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate()
    journal = Journal(store)
    log = DecisionLog(Doubtful(journal), keep_days=1.0)
    bench = Bench(tmp_path, Loaded(), log)
    bench.echo.hold = asyncio.Event()
    running = asyncio.create_task(bench.run())
    await bench.echo.begun.wait()
    with pytest.raises(StoreError, match="went away"):
        await log.flush()
    bench.echo.hold.set()
    await running
    await bench.run(attempt=2)
    await log.flush()
    await bench.run(attempt=3)
    await log.flush()
    with store.read() as connection:
        rows = connection.execute(select(actors_decisions).order_by(actors_decisions.c.at)).all()
    assert [(row.attempt, row.outcome["outcome"]) for row in rows] == [
        *((1, "ok"), (2, "ok"), (3, "ok"))
    ]
    await journal.close()
    store.close()


def test_what_declares_itself_idempotent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_registered", {})
    function("again", idempotent=True)(json.dumps)
    function("once")(json.loads)
    known = bench.executor.is_idempotent
    assert [known("function", name, {}) for name in ("again", "once", "unknown")] == [
        True,
        False,
        False,
    ]
    asked = [known("agent", "reader", {"method": method}) for method in ("reader", "writer")]
    assert asked == [True, False]
