"""Stores that fail, leaders that are replaced, histories that cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, update

from actors.journal import Journal
from actors.lease import acquire
from actors.tables import actors_workflow_events, actors_workflows
from actors.workflow.calls import task_of
from actors.workflow.tasks import StepTask
from actors.workflow_records import events_after
from ironcliw.errors import LeaseLostError, StoreError, UnavailableError
from ironcliw.store import Store
from tests.unit.actors.orchestration.conftest import Start
from tests.unit.actors.orchestration.executors import Scripted, forever
from tests.waiting import until

FLOW: dict[str, Any] = {
    "name": "flow",
    "steps": {"a": {"function": "f"}, "b": {"function": "f", "after": ["a"]}},
}


class Flaky:
    """A journal some of whose commits fail, before or after they are made.

    Args:
        journal: Behind it.
        failures: By the number of the commit, from 0: whether it is made all the same.
    """

    def __init__(self, journal: Journal, failures: dict[int, bool]) -> None:
        self._journal = journal
        self._failures = failures
        self.count = 0

    async def commit(self, work: Callable[[Connection], Any]) -> Any:
        number, self.count = self.count, self.count + 1
        if number not in self._failures:
            return await self._journal.commit(work)
        if self._failures[number]:
            await self._journal.commit(work)
        raise StoreError("the server went away")

    async def read(self, work: Callable[[Connection], Any]) -> Any:
        return await self._journal.read(work)


@pytest.mark.parametrize("are_made", [False, True])
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_store_that_goes_away_and_comes_back_costs_time_only(
    start: Start, store: Store, are_made: bool, key: str | None
) -> None:
    executor = Scripted()
    failures = dict.fromkeys(range(0, 8, 2), are_made)
    orchestrator = await start(executor, change=lambda journal: Flaky(journal, failures))
    view = await orchestrator.submit(FLOW, key=key)
    assert (await orchestrator.wait(view.id, 30)).status == "completed"
    assert executor.names() == ["a", "b"]
    with store.read() as connection:
        kinds = [row.kind for row in events_after(connection, view.id)]
    assert kinds == ["submitted", *["step_started", "step_completed"] * 2, "completed"]


async def test_only_the_leader_acts(start: Start, store: Store) -> None:
    release = asyncio.Event()

    async def held(task: StepTask) -> None:
        await release.wait()

    first_lease = acquire(store, "actors", "first", now=0.0)
    assert first_lease is not None
    first = Scripted({"f": held})
    old = await start(first, lease=first_lease)
    view = await old.submit({**FLOW, "steps": {"a": {"function": "f", "idempotent": True}}})
    await until(lambda: first.running == 1)
    with store.write() as connection:  # as if it had been silent for long, on another machine
        from actors.tables import actors_leases

        connection.execute(update(actors_leases).values(until=0.0))
    second_lease = acquire(store, "actors", "second")
    assert second_lease is not None
    second = Scripted()
    new = await start(second, lease=second_lease)
    assert (await new.wait(view.id, 20)).status == "completed"
    release.set()  # the old one has a result now, and finds that it does not lead
    assert isinstance(await asyncio.wait_for(old.until_ended(), 60), LeaseLostError)
    with pytest.raises(UnavailableError, match="this orchestrator has ended: first led 'actors'"):
        await old.submit(FLOW)
    with pytest.raises(UnavailableError, match="has ended"):
        await old.wait(view.id, 5)
    found = await new.get(view.id)
    assert (found.status, found.steps[0].attempts) == ("completed", 2)


async def test_who_waits_hears_that_somebody_else_leads(start: Start, store: Store) -> None:
    lease = acquire(store, "actors", "first")
    assert lease is not None
    executor = Scripted({"f": forever})
    old = await start(executor, lease=lease)
    view = await old.submit(FLOW)
    waits = asyncio.create_task(old.wait(view.id))
    await until(lambda: executor.running == 1)
    with store.write() as connection:
        lease.release(connection)
    for key in (None, "k"):
        with pytest.raises(UnavailableError, match="has ended"):
            await old.submit(FLOW, key=key)
    with pytest.raises(UnavailableError, match="has ended"):
        await waits
    await until(lambda: executor.running == 0)


async def test_a_workflow_that_cannot_be_read_is_left_as_it_is(
    start: Start, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    executor = Scripted({"f": forever})
    orchestrator = await start(executor)
    broken = await orchestrator.submit(FLOW)
    fine = await orchestrator.submit(FLOW)
    await until(lambda: executor.running == 2)
    await orchestrator.close()
    with store.write() as connection:
        newer = {"name": "flow", "steps": {"a": {"function": "f", "of_a_newer_release": 1}}}
        chosen = update(actors_workflows).where(actors_workflows.c.id == broken.id)
        connection.execute(chosen.values(definition=newer))
    orchestrator = await start(Scripted())
    assert (await orchestrator.get(fine.id)).status == "uncertain"
    assert f"workflow {broken.id} cannot be rebuilt from its events" in caplog.text
    with pytest.raises(StoreError, match="cannot be rebuilt"):
        await orchestrator.cancel(broken.id)
    assert [view.status for view in await orchestrator.list()] == ["uncertain", "running"]


async def test_a_step_that_cannot_be_put_together_ends_alone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(machine: Any, unit: Any, *more: Any) -> StepTask:
        if machine.definition.name == "flow":
            raise MemoryError
        return task_of(machine, unit, *more)

    monkeypatch.setattr("actors.orchestration.engine.task_of", no_room)
    orchestrator = await start(Scripted())
    view = await orchestrator.submit(FLOW)
    fine = await orchestrator.submit({**FLOW, "name": "fine"})
    ended = await orchestrator.wait(view.id, 20)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.message == "it cannot be started: MemoryError: "
    assert (await orchestrator.wait(fine.id, 20)).status == "completed"


@pytest.mark.parametrize(
    "column",
    [{"priority": 9}, {"inputs": 7}, {"inputs": "text"}, {"definition": {"name": 1}}],
    ids=["priority", "inputs", "text", "definition"],
)
async def test_one_row_that_cannot_be_read_stops_nobody_else(
    start: Start, store: Store, caplog: pytest.LogCaptureFixture, column: dict[str, Any]
) -> None:
    executor = Scripted({"f": forever})
    orchestrator = await start(executor)
    flow = {"name": "f", "inputs": {"x": {}}, "steps": {"a": {"function": "f"}}}
    flow["steps"]["b"] = {"function": "f", "when": "${inputs.x} == null"}  # type: ignore[index]
    broken = await orchestrator.submit(flow)
    fine = await orchestrator.submit(FLOW)
    await until(lambda: executor.running == 3)
    await orchestrator.close()
    with store.write() as connection:
        chosen = update(actors_workflows).where(actors_workflows.c.id == broken.id)
        connection.execute(chosen.values(**column))
    orchestrator = await start(Scripted())
    assert (await orchestrator.get(fine.id)).status == "uncertain"
    assert f"workflow {broken.id} cannot be rebuilt from its events" in caplog.text
    with pytest.raises(StoreError, match="cannot be rebuilt"):
        await orchestrator.get(broken.id)


async def test_an_event_that_cannot_be_read_stops_nobody_else(
    start: Start, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    executor = Scripted({"f": forever})
    orchestrator = await start(executor)
    broken = await orchestrator.submit(FLOW)
    fine = await orchestrator.submit(FLOW)
    await until(lambda: executor.running == 2)
    await orchestrator.close()
    with store.write() as connection:
        chosen = update(actors_workflow_events).where(
            actors_workflow_events.c.workflow_id == broken.id
        )
        connection.execute(chosen.values(data=[1], step="a", kind="step_failed"))
    orchestrator = await start(Scripted())
    assert (await orchestrator.get(fine.id)).status == "uncertain"
    assert f"workflow {broken.id} cannot be rebuilt from its events" in caplog.text
