"""The shell around the machine, on a real journal and a real store."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest

from actors.orchestrator import Orchestrator
from actors.workflow.limits import Limits
from actors.workflow.seats import without_seat
from actors.workflow.tasks import StepError, StepTask
from actors.workflow_records import events_after
from ironcliw.errors import (
    ConflictError,
    NotFoundError,
    RequestError,
    RequestTooLargeError,
    UnavailableError,
)
from ironcliw.store import Store
from tests.unit.actors.orchestration.conftest import Start
from tests.unit.actors.orchestration.executors import Scripted, forever
from tests.waiting import until


def flow(**steps: Any) -> dict[str, Any]:
    return {"name": "flow", "inputs": {"x": None}, "steps": steps}


def call(target: str, *after: str, **fields: Any) -> dict[str, Any]:
    return {"function": target, "after": list(after), **fields}


THREE = flow(
    a=call("f", **{"with": {"x": "${inputs.x}"}}),
    b=call("f", **{"with": {"x": "${steps.a.x}"}}),
    c=call("f", **{"with": {"x": "${steps.b.x}"}}),
)


async def test_steps_run_and_the_result_is_kept(start: Start) -> None:
    orchestrator = await start(Scripted())
    submitted = await orchestrator.submit(THREE, {"x": 7}, owner="me")
    assert submitted.status == "running"
    ended = await orchestrator.wait(submitted.id, 20)
    assert (ended.status, ended.output, ended.owner) == ("completed", {"x": 7}, "me")
    assert [step.status for step in ended.steps] == ["completed"] * 3
    assert orchestrator.open == orchestrator.running == 0
    full = await orchestrator.get(submitted.id, with_outputs=True)
    assert [step.output for step in full.steps] == [{"x": 7}] * 3
    kinds = [event.kind async for event in orchestrator.events(submitted.id)]
    assert kinds == ["submitted", *["step_started", "step_completed"] * 3, "completed"]


async def test_nothing_is_done_before_the_disk_says_so(start: Start, store: Store) -> None:
    seen: list[list[str]] = []

    async def look(task: StepTask) -> None:
        with store.read() as connection:
            rows = events_after(connection, task.workflow_id)
        seen.append([row.kind for row in rows if row.step == task.step])

    orchestrator = await start(Scripted({"look": look}))
    view = await orchestrator.submit(flow(a=call("look"), b=call("look", "a")))
    await orchestrator.wait(view.id, 20)
    assert seen == [["step_started"], ["step_started"]]


async def test_a_submission_may_be_repeated(start: Start) -> None:
    executor = Scripted()
    orchestrator = await start(executor)
    both = await asyncio.gather(
        *(orchestrator.submit(THREE, {"x": 1}, owner="me", key="k") for _ in range(5))
    )
    assert len({view.id for view in both}) == 1
    await orchestrator.wait(both[0].id, 20)
    again = await orchestrator.submit(THREE, {"x": 1}, owner="me", key="k")
    assert (again.id, again.status) == (both[0].id, "completed")
    other = await orchestrator.submit(THREE, {"x": 1}, owner="you", key="k")
    assert other.id != again.id
    await orchestrator.wait(other.id, 20)
    assert executor.names() == ["a", "b", "c"] * 2


@pytest.mark.parametrize(
    ("definition", "inputs", "what"),
    [
        (flow(other=call("f")), {}, "another definition"),
        (THREE, {"x": 2}, "other inputs"),
        (THREE, {"x": True}, "other inputs"),
    ],
)
async def test_a_used_key_is_refused_with_something_else(
    start: Start, definition: Any, inputs: Any, what: str
) -> None:
    executor = Scripted()
    orchestrator = await start(executor)
    view = await orchestrator.submit(THREE, {"x": 1}, key="k")
    await orchestrator.wait(view.id, 20)
    message = f"'k' was used for workflow {view.id} .* {what}: submit what"
    with pytest.raises(ConflictError, match=message) as caught:
        await orchestrator.submit(definition, inputs, key="k")
    error = caught.value
    assert (error.code, error.status, error.param) == ("key_reused", 409, "key")
    assert executor.names() == ["a", "b", "c"], "nothing of it was started"


async def test_two_at_once_with_one_key_and_other_inputs_are_not_one(start: Start) -> None:
    orchestrator = await start(Scripted())
    first, second = await asyncio.gather(
        orchestrator.submit(THREE, {"x": 1}, key="k"),
        orchestrator.submit(THREE, {"x": 2}, key="k"),
        return_exceptions=True,
    )
    assert not isinstance(first, BaseException)
    assert isinstance(second, ConflictError)
    assert second.code == "key_reused"
    await orchestrator.wait(first.id, 20)


async def test_a_repeated_submission_may_have_another_priority(start: Start) -> None:
    orchestrator = await start(Scripted())
    view = await orchestrator.submit(THREE, {"x": 1}, key="k")
    turned = dict(reversed(THREE.items()))
    again = await orchestrator.submit(turned, {"x": 1}, key="k", priority="high")
    assert (again.id, again.priority) == (view.id, "normal")
    await orchestrator.wait(view.id, 20)


async def test_after_a_restart_everything_goes_on(start: Start) -> None:
    first = Scripted({"hang": forever}, idempotent=("hang",))
    orchestrator = await start(first)
    view = await orchestrator.submit(
        flow(
            done=call("f"),
            again=call("hang", "done"),
            once=call("hang", "done", idempotent=False),
            last=call("f", "again", "once"),
        )
    )
    await until(lambda: first.running == 2)
    await orchestrator.close()
    second = Scripted(idempotent=("hang",))
    orchestrator = await start(second)
    found = await orchestrator.wait(view.id, 20)
    assert found.status == "uncertain"
    assert second.names() == ["again"]
    assert second.tasks[0].attempt == 2
    assert second.tasks[0].key == next(t.key for t in first.tasks if t.step == "again")
    await orchestrator.skip(view.id, "once", value="by hand")
    assert (await orchestrator.wait(view.id, 20)).status == "completed"
    assert second.names() == ["again", "last"]


async def test_a_lowered_limit_of_items_is_for_workflows_to_come(start: Start) -> None:
    fan = flow(
        each=call("hang", for_each="${inputs.x}", **{"with": {"x": "${item}"}}),
        last=call("f", for_each="${steps.each}", **{"with": {"x": "${item}"}}),
    )
    first = Scripted({"hang": forever}, idempotent=("hang",))
    orchestrator = await start(first, limits=Limits(items=3))
    view = await orchestrator.submit(fan, {"x": [1, 2, 3]})
    await until(lambda: first.running == 3)
    await orchestrator.close()
    orchestrator = await start(Scripted(idempotent=("hang",)), limits=Limits(items=2))
    assert (await orchestrator.wait(view.id, 20)).status == "completed"
    refused = await orchestrator.submit(fan, {"x": [1, 2, 3]})
    ended = await orchestrator.wait(refused.id, 20)
    assert ended.status == "failed"
    assert ended.error is not None
    assert "has 3 items, the most is 2" in ended.error.message


async def test_a_step_runs_no_longer_than_it_may(start: Start) -> None:
    async def hang_once(task: StepTask) -> str:
        if task.attempt == 1:
            await forever(task)
        return "second"

    retry = {"attempts": 2, "backoff_seconds": 0.01}
    executor = Scripted({"slow": hang_once}, idempotent=("slow",))
    orchestrator = await start(executor)
    slow = call("slow", timeout_seconds=0.05, retry=retry)
    view = await orchestrator.submit(flow(a=slow, b=call("slow", "a", timeout_seconds=20)))
    await until(lambda: len(executor.tasks) == 3)
    assert executor.stopped == [(f"{view.id}/a", 1)]
    view = await orchestrator.submit(flow(a={**slow, "idempotent": False}))
    found = await orchestrator.wait(view.id, 20)
    assert found.status == "uncertain"
    assert found.steps[0].error is not None
    assert "it had not ended after 0.05 s" in found.steps[0].error.message


async def test_an_executor_that_does_not_stop_is_left_behind(start: Start) -> None:
    release = asyncio.Event()

    async def stubborn(task: StepTask) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "too late"

    executor = Scripted({"stubborn": stubborn})
    orchestrator = await start(executor, stop_seconds=0.05)
    step = call("stubborn", timeout_seconds=0.05, idempotent=True)
    view = await orchestrator.submit(flow(a=step))
    found = await orchestrator.wait(view.id, 20)
    assert (found.status, executor.running) == ("failed", 1)
    release.set()
    await until(lambda: executor.running == 0)
    assert (await orchestrator.get(view.id)).status == "failed"


async def test_an_executor_that_does_not_stop_may_still_be_at_it(start: Start) -> None:
    release = asyncio.Event()

    async def stubborn(task: StepTask) -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    executor = Scripted({"stubborn": stubborn})
    orchestrator = await start(executor, stop_seconds=0.05)
    view = await orchestrator.submit(flow(a=call("stubborn", compensate={"function": "undo"})))
    await until(lambda: executor.running == 1)
    await orchestrator.cancel(view.id)
    found = await orchestrator.wait(view.id, 20)
    assert (found.status, executor.names()) == ("uncertain", ["a"])
    assert found.steps[0].error is not None
    assert "may still be at it" in found.steps[0].error.message
    release.set()
    await orchestrator.skip(view.id, "a")
    assert (await orchestrator.wait(view.id, 20)).status == "cancelled"
    assert executor.names() == ["a", "a"]


@pytest.mark.parametrize("goes_on", [False, True])
async def test_what_an_earlier_one_was_stopping_is_stopped_before_it_is_undone(
    start: Start, goes_on: bool
) -> None:
    release = asyncio.Event()

    async def slow(task: StepTask) -> None:
        try:
            await forever(task)
        finally:
            await release.wait()

    first = Scripted({"slow": slow})
    orchestrator = await start(first)
    step = {"agent": "slow", "compensate": {"function": "undo"}}
    view = await orchestrator.submit(flow(a=step))
    await until(lambda: first.running == 1)
    await orchestrator.cancel(view.id)
    asyncio.get_running_loop().call_later(0.05, release.set)
    await orchestrator.close()
    second = Scripted()
    second.goes_on = goes_on
    orchestrator = await start(second)
    await until(lambda: second.ended == [(f"{view.id}/a", 1)])
    await asyncio.sleep(0.05)
    assert second.names() == []
    second.may_end.set()
    found = await orchestrator.wait(view.id, 20)
    assert found.status == ("uncertain" if goes_on else "cancelled")
    assert second.names() == ([] if goes_on else ["a"])
    assert orchestrator.running == 0


async def test_a_workflow_that_turns_does_not_break_the_stopping_off(start: Start) -> None:
    first = Scripted({"hang": forever})
    orchestrator = await start(first)
    step = {"agent": "hang", "compensate": {"function": "undo"}}
    view = await orchestrator.submit(flow(a=step))
    await until(lambda: first.running == 1)
    await orchestrator.close()
    second = Scripted()
    orchestrator = await start(second)
    await until(lambda: bool(second.ended))
    assert (await orchestrator.cancel(view.id)).status == "cancelling"
    await asyncio.sleep(0.05)
    assert second.names() == []
    second.may_end.set()
    assert (await orchestrator.wait(view.id, 20)).status == "cancelled"
    assert second.names() == ["a"]


async def test_a_cancelled_workflow_stops_and_is_undone(start: Start) -> None:
    executor = Scripted({"hang": forever})
    orchestrator = await start(executor)
    undo = {"function": "undo", "with": {"was": "${output}"}}
    view = await orchestrator.submit(
        flow(a=call("f", compensate=undo, **{"with": {"n": 1}}), b=call("hang", "a"))
    )
    await until(lambda: executor.names() == ["a", "b"])
    assert (await orchestrator.cancel(view.id)).status == "cancelling"
    found = await orchestrator.wait(view.id, 20)
    assert (found.status, executor.stopped) == ("cancelled", [(f"{view.id}/b", 1)])
    assert executor.tasks[-1].inputs == {"was": {"n": 1}}
    assert executor.tasks[-1].is_compensation
    assert (await orchestrator.cancel(view.id)).status == "cancelled"
    with pytest.raises(ConflictError, match="is cancelled and cannot be paused"):
        await orchestrator.pause(view.id)


async def test_a_paused_workflow_goes_on_when_it_is_resumed(start: Start) -> None:
    release = asyncio.Event()

    async def held(task: StepTask) -> None:
        await release.wait()

    executor = Scripted({"held": held})
    orchestrator = await start(executor)
    view = await orchestrator.submit(flow(a=call("held"), b=call("f", "a")))
    await until(lambda: executor.running == 1)
    assert (await orchestrator.pause(view.id)).status == "paused"
    release.set()
    await until(lambda: executor.running == 0)
    assert (await orchestrator.get(view.id)).steps[0].status == "completed"
    assert executor.names() == ["a"]
    await orchestrator.resume(view.id)
    assert (await orchestrator.wait(view.id, 20)).status == "completed"


async def test_a_deadline_ends_a_workflow(start: Start) -> None:
    orchestrator = await start(Scripted({"hang": forever}))
    view = await orchestrator.submit({**flow(a=call("hang")), "deadline_seconds": 0.05})
    found = await orchestrator.wait(view.id, 20)
    assert found.error is not None
    assert (found.status, found.error.kind) == ("failed", "deadline")


async def test_what_runs_on_a_leaving_node_moves_or_ends_in_time(start: Start) -> None:
    release = asyncio.Event()

    async def work(task: StepTask) -> int:
        executor.nodes[task.key, task.attempt] = "spot-1" if task.attempt == 1 else "spot-2"
        if task.attempt == 1:
            await release.wait()
        return task.attempt

    executor = Scripted({"work": work}, idempotent=())
    orchestrator = await start(executor)
    view = await orchestrator.submit(
        flow(
            moves=call("work", idempotent=True),
            stays=call("work"),
        )
    )
    late = await orchestrator.submit(flow(late=call("work")))
    await until(lambda: executor.running == 3)
    await orchestrator.node_leaving("spot-7", time.time())
    await orchestrator.node_leaving("spot-1", time.time() + 0.3)
    await until(lambda: executor.names().count("moves") == 2)
    assert executor.stopped == [(f"{view.id}/moves", 1)]
    found = await orchestrator.wait(late.id, 20)
    assert found.status == "uncertain"  # it had not ended by then
    release.set()
    found = await orchestrator.wait(view.id, 20)
    assert found.status == "uncertain"
    assert await _output(orchestrator, view.id, "moves") == 2


async def test_a_step_that_must_not_be_repeated_may_end_on_a_leaving_node(start: Start) -> None:
    release = asyncio.Event()

    async def work(task: StepTask) -> str:
        executor.nodes[task.key, task.attempt] = "spot-1"
        await release.wait()
        return "ended"

    executor = Scripted({"work": work})
    orchestrator = await start(executor)
    view = await orchestrator.submit(flow(a=call("work")))
    await until(lambda: executor.running == 1)
    await orchestrator.node_leaving("spot-1", time.time() + 30)
    release.set()
    assert (await orchestrator.wait(view.id, 20)).output == "ended"


async def test_urgent_steps_go_first_and_no_more_run_than_may(start: Start) -> None:
    release = asyncio.Event()

    async def held(task: StepTask) -> None:
        await release.wait()

    executor = Scripted({"held": held})
    orchestrator = await start(executor, max_running=1)
    await orchestrator.submit(flow(first=call("held")))
    await until(lambda: executor.running == 1)
    views = [
        await orchestrator.submit(flow(**{name: call("held")}), priority=name)  # type: ignore[arg-type]
        for name in ("low", "normal", "critical", "high")
    ]
    release.set()
    for view in views:
        await orchestrator.wait(view.id, 20)
    assert executor.names() == ["first", "critical", "high", "normal", "low"]
    assert executor.most == 1


async def test_a_clock_that_steps_back_changes_no_order(start: Start) -> None:
    release, now = asyncio.Event(), 1e9

    async def held(task: StepTask) -> None:
        await release.wait()

    executor = Scripted({"held": held})
    orchestrator = await start(executor, clock=lambda: now, max_running=1)
    views = []
    for name in ("first", "second", "third"):
        views.append(await orchestrator.submit(flow(**{name: call("held")})))
        now -= 3600.0
    release.set()
    for view in views:
        await orchestrator.wait(view.id, 20)
    assert executor.names() == ["first", "second", "third"]


async def test_a_crowd_of_items_lets_others_in_between(start: Start) -> None:
    executor = Scripted()
    orchestrator = await start(executor, max_running=1)
    many = flow(crowd=call("f", for_each=list(range(200))))
    crowd = await orchestrator.submit(many)
    one = await orchestrator.submit(flow(lone=call("f")))
    await orchestrator.wait(crowd.id, 60)
    await orchestrator.wait(one.id, 20)
    assert executor.names().index("lone") < 100


async def test_an_executor_that_breaks_fails_its_step(start: Start) -> None:
    async def broken(task: StepTask) -> None:
        raise KeyError("oops")

    async def refuses(task: StepTask) -> None:
        raise StepError("refused", "no room")

    orchestrator = await start(Scripted({"broken": broken, "refuses": refuses}))
    view = await orchestrator.submit(
        flow(a=call("broken", on_failure="continue"), b=call("refuses", "a"))
    )
    found = await orchestrator.wait(view.id, 20)
    errors = [step.error and (step.error.kind, step.error.message) for step in found.steps]
    assert errors == [("error", "KeyError: 'oops'"), ("refused", "no room")]


async def test_inputs_that_have_no_value_fail_the_step(start: Start) -> None:
    executor = Scripted()
    orchestrator = await start(executor)
    view = await orchestrator.submit(
        flow(a=call("f"), b=call("f", **{"with": {"x": "${steps.a.absent}"}}))
    )
    found = await orchestrator.wait(view.id, 20)
    assert (found.status, executor.names()) == ("failed", ["a"])
    assert found.error is not None
    assert "there is no key 'absent'" in found.error.message


async def test_events_are_told_as_they_happen(start: Start) -> None:
    release = asyncio.Event()

    async def held(task: StepTask) -> None:
        await release.wait()

    orchestrator = await start(Scripted({"held": held}))
    view = await orchestrator.submit(flow(a=call("held")))
    kinds = []
    async for event in orchestrator.events(view.id, after=1):
        kinds.append((event.seq, event.kind))
        release.set()
    assert kinds == [(2, "step_started"), (3, "step_completed"), (4, "completed")]
    with pytest.raises(NotFoundError, match="there is no workflow 'wf-x'"):
        async for _ in orchestrator.events("wf-x"):
            pass


async def test_workflows_are_listed(start: Start) -> None:
    orchestrator = await start(Scripted({"hang": forever}))
    running = await orchestrator.submit(flow(a=call("hang")), owner="me")
    done = await orchestrator.submit({**flow(a=call("f")), "name": "other"})
    await orchestrator.wait(done.id, 20)
    assert [view.id for view in await orchestrator.list()] == [done.id, running.id]
    assert [view.id for view in await orchestrator.list(status="running")] == [running.id]
    assert [view.name for view in await orchestrator.list(name="other")] == ["other"]
    assert [view.owner for view in await orchestrator.list(owner="me")] == ["me"]
    ends = [view.finished_at for view in await orchestrator.list()]
    assert [end is not None for end in ends] == [True, False]
    await orchestrator.close()
    assert (await start(Scripted())).open == 1  # what has ended is not taken up again


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"key": ""}, RequestError, "the key '' cannot be used"),
        ({"key": "a\x00"}, RequestError, "printable ASCII"),
        ({"deadline": 1.0}, RequestError, r"the deadline 1\.000 cannot be kept"),
        ({"inputs": {"y": 1}}, RequestError, "has no input 'y'"),
        ({"inputs": {"x": {1}}}, RequestError, "the inputs is no JSON value"),
        ({"inputs": {"x": "x" * 200}}, RequestTooLargeError, "the most is 100"),
    ],
)
async def test_a_bad_submission_is_refused_and_leaves_nothing(
    start: Start, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    orchestrator = await start(Scripted(), limits=Limits(inputs_bytes=100))
    with pytest.raises(error, match=message):
        await orchestrator.submit(THREE, **arguments)
    assert await orchestrator.list() == []
    assert orchestrator.open == 0


async def test_only_a_running_orchestrator_takes_submissions(start: Start) -> None:
    orchestrator = await start(Scripted())
    await orchestrator.close()
    with pytest.raises(UnavailableError, match="this orchestrator is closed"):
        await orchestrator.submit(THREE)


async def test_running_steps_may_end_before_it_closes(start: Start) -> None:
    release = asyncio.Event()

    async def held(task: StepTask) -> str:
        await release.wait()
        return "ended"

    executor = Scripted({"held": held})
    orchestrator = await start(executor)
    view = await orchestrator.submit(flow(a=call("held"), b=call("f", "a")))
    await until(lambda: executor.running == 1)
    closing = asyncio.create_task(orchestrator.close(20))
    await asyncio.sleep(0)
    release.set()
    await closing
    second = Scripted()
    orchestrator = await start(second)
    await orchestrator.wait(view.id, 20)
    assert second.names() == ["b"]


async def test_what_is_started_again_anyway_is_not_waited_for(start: Start) -> None:
    executor = Scripted({"hang": forever}, idempotent=("hang",))
    orchestrator = await start(executor)
    view = await orchestrator.submit(flow(a=call("hang")))
    await until(lambda: executor.running == 1)
    async with asyncio.timeout(60):
        await orchestrator.close(600)
    assert executor.stopped == [(f"{view.id}/a", 1)]
    second = Scripted(idempotent=("hang",))
    assert (await (await start(second)).wait(view.id, 20)).status == "completed"


async def test_open_workflows_are_counted(start: Start) -> None:
    orchestrator = await start(Scripted({"hang": forever}))
    held = [await orchestrator.submit(flow(a=call("hang"))) for _ in range(3)]
    await orchestrator.pause(held[0].id)
    done = await orchestrator.submit(THREE)
    await orchestrator.wait(done.id, 20)
    assert orchestrator.open_by_status() == {"running": 2, "paused": 1}


async def _output(orchestrator: Orchestrator, workflow_id: str, step: str) -> Any:
    view = await orchestrator.get(workflow_id, with_outputs=True)
    return next(each.output for each in view.steps if each.name == step)


async def test_what_only_waits_keeps_nobody_from_starting(start: Start) -> None:
    there = asyncio.Event()

    async def waits(task: StepTask) -> str:
        with without_seat():
            await there.wait()
        return "met"

    executor = Scripted({"waits": waits})
    orchestrator = await start(executor, max_running=2)
    waiting = [await orchestrator.submit(flow(a=call("waits"))) for _ in range(5)]
    await until(lambda: executor.running == 5)
    assert orchestrator.running == 0
    other = await orchestrator.submit(flow(a=call("f")))
    assert (await orchestrator.wait(other.id, 20)).status == "completed"
    cancelled = await orchestrator.cancel(waiting[0].id)
    assert (await orchestrator.wait(cancelled.id, 20)).status == "cancelled"
    there.set()
    for view in waiting[1:]:
        assert (await orchestrator.wait(view.id, 20)).output == "met"
    assert orchestrator.running == 0
