"""Who may lead, and who may not any more, on every database that the store supports."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select, update

from actors import lease as lease_module
from actors.lease import LEASE_SECONDS, Lease, acquire, wait_for_lease
from actors.tables import actors_leases
from ironcliw.errors import LeaseLostError
from ironcliw.store import Store

ROOT = Path(__file__).parents[2]
NAME = "orchestrator"


def held(store: Store, holder: str, now: float) -> Lease:
    lease = acquire(store, NAME, holder, now)
    assert lease is not None
    return lease


def put_elsewhere(store: Store) -> None:
    """As if another machine held the lease: nobody here can see whether its process lives."""
    with store.write() as connection:
        connection.execute(update(actors_leases).values(host="another machine"))


def test_one_leads_and_the_other_does_not(store: Store) -> None:
    assert held(store, "first", 1000.0) == Lease(NAME, "first", 1)
    assert acquire(store, NAME, "second", 1000.0 + LEASE_SECONDS) is None
    assert held(store, "second", 1000.1 + LEASE_SECONDS).epoch == 2


def test_who_renews_goes_on_leading(store: Store) -> None:
    lease = held(store, "first", 1000.0)
    with store.write() as connection:
        lease.renew(connection, 1009.0)
    assert acquire(store, NAME, "second", 1018.0) is None
    assert held(store, "second", 1019.1).epoch == 2


def test_who_has_lost_it_may_neither_check_nor_renew_nor_release(store: Store) -> None:
    lease = held(store, "first", 1000.0)
    held(store, "second", 1020.0)
    for use in (lease.check, lease.renew, lease.release):
        with pytest.raises(LeaseLostError, match=r"no more \(epoch 2, second\)"):
            with store.write() as connection:
                use(connection)
    assert acquire(store, NAME, "third", 1025.0) is None, "the second one still leads"


def test_the_name_of_a_holder_says_nothing(store: Store) -> None:
    lease = held(store, "head", 1000.0)
    held(store, "head", 1020.0)
    with pytest.raises(LeaseLostError, match=r"no more \(epoch 2, head\)"):
        with store.write() as connection:
            lease.check(connection)


def test_a_released_lease_is_free_at_once(store: Store) -> None:
    lease = held(store, "first", 1000.0)
    with store.write() as connection:
        lease.release(connection)
    with pytest.raises(LeaseLostError, match="epoch 1, released"), store.write() as connection:
        lease.check(connection)
    assert held(store, "second", 1000.0).epoch == 2


def test_leases_of_other_names_are_others(store: Store) -> None:
    held(store, "first", 1000.0)
    assert acquire(store, "something else", "second", 1000.0) == Lease(
        "something else", "second", 1
    )


ACQUIRE = """
import sys
from actors.lease import acquire
from ironcliw.store import Store
with Store(sys.argv[1]) as store:
    print(acquire(store, "orchestrator", "child"), flush=True)
    sys.stdin.readline()
"""


def test_the_lease_of_a_killed_process_is_free_at_once(store: Store, store_url: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", ACQUIRE, store_url],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert "epoch=1" in child.stdout.readline()
        assert acquire(store, NAME, "we") is None, "the child lives"
        child.kill()
        deadline = threading.Event()
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            assert not deadline.wait(0.01)
        # nobody has waited for it, as where its parent is busy or was killed too
        assert acquire(store, NAME, "we") == Lease(NAME, "we", 2)


def test_a_process_of_another_machine_is_given_its_time(store: Store) -> None:
    lease = held(store, "first", 1000.0)
    put_elsewhere(store)
    with store.write() as connection:
        connection.execute(update(actors_leases).values(pid=2**22 + 1))
        lease.check(connection)
    assert acquire(store, NAME, "second", 1005.0) is None
    assert held(store, "second", 1010.1).epoch == 2


def test_a_pid_that_was_given_to_another_process_is_not_the_leader(store: Store) -> None:
    held(store, "first", 1000.0)
    with store.write() as connection:
        started = select(actors_leases.c.pid_started)
        assert connection.execute(started).scalar_one() == psutil.Process().create_time()
        connection.execute(update(actors_leases).values(pid_started=5.0, pid=os.getpid()))
    assert held(store, "second", 1001.0).epoch == 2


async def test_who_waits_leads_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_WAIT_SECONDS", 0.01)
    first = await wait_for_lease(store, NAME, "first")
    told = asyncio.Event()
    waiting = asyncio.create_task(wait_for_lease(store, NAME, "second", told.set))
    async with asyncio.timeout(60):
        await told.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        with store.write() as connection:
            first.release(connection)
        assert await waiting == Lease(NAME, "second", 2)


def test_of_many_that_ask_at_once_one_leads(store: Store) -> None:
    found: list[Lease | None] = []
    start = threading.Barrier(8)

    def ask(index: int) -> None:
        start.wait(60)
        found.append(acquire(store, NAME, f"thread-{index}"))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert [lease.epoch for lease in found if lease is not None] == [1]
