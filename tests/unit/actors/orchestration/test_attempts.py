"""Each attempt is told of once, with the reason for which it was stopped first."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from actors.orchestration.attempts import Attempt, Attempts, Outcome
from actors.workflow.tasks import StepError, StepResult, StepTask
from tests.unit.actors.orchestration.executors import Scripted, forever
from tests.waiting import until

Told = list[tuple[str, Outcome]]


def task(target: str, timeout_seconds: float | None = None) -> StepTask:
    return StepTask(
        workflow_id="wf-1",
        step="a",
        item=None,
        attempt=1,
        kind="function",
        target=target,
        inputs={},
        key="wf-1/a",
        timeout_seconds=timeout_seconds,
    )


def attempts_of(executor: Scripted) -> tuple[Attempts[str], Told]:
    told: Told = []

    def ended(attempt: Attempt[str], outcome: Outcome) -> None:
        told.append((attempt.owner, outcome))

    return Attempts(executor, 5.0, ended), told


async def test_the_first_reason_counts() -> None:
    attempts, told = attempts_of(Scripted({"hang": forever}))
    attempt = attempts.start("me", task("hang", 100))
    await asyncio.sleep(0)
    attempts.stop(attempt, "timeout")
    attempts.stop(attempt, "turned")
    await until(lambda: bool(told))
    [(owner, outcome)] = told
    assert owner == "me"
    assert isinstance(outcome, StepError)
    assert outcome.failure == "timeout"
    assert len(attempts) == 0


async def test_one_that_is_stopped_before_its_first_turn_leaves_nothing() -> None:
    executor = Scripted({"hang": forever})
    attempts, told = attempts_of(executor)
    attempts.stop(attempts.start("me", task("hang")), "turned")
    await until(lambda: bool(told))
    assert told == [("me", None)]
    assert executor.tasks == [], "it never came to its first turn"
    assert executor.forgotten == [("wf-1/a", 1)]


async def test_a_result_that_comes_while_it_is_stopped_counts() -> None:
    async def finishes(task: StepTask) -> str:
        try:
            await forever(task)
        except asyncio.CancelledError:
            return "just in time"
        return "never"

    attempts, told = attempts_of(Scripted({"finishes": finishes}))
    attempt = attempts.start("me", task("finishes"))
    await asyncio.sleep(0)
    attempts.stop(attempt, "turned")
    await until(lambda: bool(told))
    assert told == [("me", StepResult("just in time"))]


@pytest.mark.parametrize("reason", ["moved", "closing"])
async def test_what_is_abandoned_is_not_told_of(reason: Any) -> None:
    executor = Scripted({"hang": forever})
    attempts, told = attempts_of(executor)
    attempt = attempts.start("me", task("hang"))
    await asyncio.sleep(0)
    attempts.abandon(attempt, reason)
    assert len(attempts) == 0
    await until(lambda: executor.running == 0)
    await attempts.close()
    assert told == []


async def test_an_executor_that_is_cancelled_from_outside_counts_as_lost() -> None:
    async def gives_up(task: StepTask) -> None:
        raise asyncio.CancelledError

    attempts, told = attempts_of(Scripted({"gives_up": gives_up}))
    attempts.start("me", task("gives_up"))
    await until(lambda: bool(told))
    outcome = told[0][1]
    assert isinstance(outcome, StepError)
    assert outcome.failure == "lost"


async def test_an_executor_that_breaks_may_have_done_the_work() -> None:
    async def breaks(task: StepTask) -> None:
        raise ZeroDivisionError("a bug")

    attempts, told = attempts_of(Scripted({"breaks": breaks}))
    attempts.start("me", task("breaks"))
    await until(lambda: bool(told))
    outcome = told[0][1]
    assert isinstance(outcome, StepError)
    assert (outcome.message, outcome.acted) == ("ZeroDivisionError: a bug", True)


@pytest.mark.parametrize("reason", ["turned", "closing"])
async def test_an_executor_hears_why_it_is_to_stop(reason: Any) -> None:
    heard: list[Any] = []

    async def listens(task: StepTask) -> None:
        try:
            async with asyncio.timeout(50):
                await asyncio.to_thread(time.sleep, 0.1)
        except asyncio.CancelledError as cancelled:
            heard.extend(cancelled.args)
            raise

    attempts, _ = attempts_of(Scripted({"listens": listens}))
    attempt = attempts.start("me", task("listens"))
    await asyncio.sleep(0.01)
    attempts.stop(attempt, reason)
    await until(lambda: len(attempts) == 0)
    assert heard == [reason]
