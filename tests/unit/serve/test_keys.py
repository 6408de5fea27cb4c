"""API keys: their rules, and the ring that the ingress asks."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from ironcliw.errors import NotFoundError, RequestError, StoreError, UnavailableError
from ironcliw.store import Store
from serve.keyring import KeyRing
from serve.keys import ApiKey, ApiKeys, Scope, StoredKey, api_keys, match


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        store.migrate()
        yield store


class CountingKeys(ApiKeys):
    """Counts the reads of the ring, and fails them on request."""

    reads = 0
    broken = False

    def active(self) -> dict[str, StoredKey]:
        self.reads += 1
        if self.broken:
            raise StoreError("the server is away")
        return super().active()

    def touch(self, ids: object) -> None:
        if self.broken:
            raise StoreError("the server is away")
        super().touch(ids)  # type: ignore[arg-type]


@pytest.fixture
def keys(store: Store) -> CountingKeys:
    return CountingKeys(store)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ring(keys: CountingKeys, clock: Clock) -> KeyRing:
    return KeyRing(keys, refresh_seconds=2.0, clock=clock, stale_seconds=10.0)


def test_a_secret_names_its_key_and_is_not_stored(store: Store, keys: ApiKeys) -> None:
    key, secret = keys.create("laptop")
    assert re.fullmatch(r"icw-[0-9a-f]{8}-[A-Za-z0-9_-]{43}", secret)
    assert secret.startswith(f"{key.prefix}-")
    assert key.prefix == f"icw-{key.id}"
    with store.read() as connection:
        row = connection.execute(select(api_keys)).one()
    assert secret.removeprefix(f"{key.prefix}-") not in repr(row)


def test_nothing_secret_is_shown(keys: ApiKeys, ring: KeyRing) -> None:
    key, secret = keys.create("laptop")
    (stored,) = keys.active().values()
    assert ring.lookup(secret) == key
    shown = f"{key!r} {stored!r} {keys!r} {ring!r}"
    assert stored.hash not in shown
    assert secret[-43:] not in shown


def test_secrets_differ(keys: ApiKeys) -> None:
    assert len({keys.create(f"key-{i}")[1][-43:] for i in range(5)}) == 5


@pytest.mark.parametrize("scope", Scope)
def test_admin_implies_every_scope(keys: ApiKeys, scope: Scope) -> None:
    admin, _ = keys.create("admin", [Scope.ADMIN])
    infer, _ = keys.create("infer", ["infer"])
    assert admin.allows(scope)
    assert infer.allows(scope) == (scope is Scope.INFER)


@pytest.mark.parametrize("name", ["", " laptop", "-x", "a" * 64, "a/b", "deadbeef", "na\u00efve"])
def test_bad_names_are_refused(keys: ApiKeys, name: str) -> None:
    with pytest.raises(RequestError, match="is no name for an API key; use 1 to 63") as caught:
        keys.create(name)
    assert caught.value.param == "name"
    assert keys.list() == []


@pytest.mark.parametrize(
    ("scopes", "message"),
    [
        (["infer", "root"], "unknown scopes: 'root'; allowed are infer, workflow, admin"),
        ([], "at least one scope; allowed are infer, workflow, admin"),
    ],
)
def test_bad_scopes_are_refused(keys: ApiKeys, scopes: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        keys.create("laptop", scopes)
    assert caught.value.param == "scopes"


@pytest.mark.parametrize("limit", [0, -1])
def test_bad_limits_are_refused(keys: ApiKeys, limit: int) -> None:
    with pytest.raises(RequestError, match=f"max_concurrency is {limit}; give 1 or more"):
        keys.create("laptop", max_concurrency=limit)


def test_revoking_an_unknown_key_names_the_known_ones(keys: ApiKeys) -> None:
    keys.create("laptop")
    keys.create("phone")
    keys.revoke("phone")
    with pytest.raises(NotFoundError, match=r"'tablet'; active keys: laptop$"):
        keys.revoke("tablet")


def test_revoking_by_name_means_the_active_key_and_happens_once(store: Store) -> None:
    moments = iter(datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 20))
    keys = ApiKeys(store, now=lambda: next(moments))
    old, _ = keys.create("laptop")
    keys.revoke("laptop")
    new, _ = keys.create("laptop")
    revoked = keys.revoke("laptop")
    assert (revoked.id, revoked.active) == (new.id, False)
    assert keys.revoke("laptop") == revoked
    assert [key.id for key in keys.list()] == [old.id, new.id]


def test_secrets_that_are_nearly_right_are_refused(keys: ApiKeys) -> None:
    key, secret = keys.create("laptop")
    changed = "a" if secret[-1] != "a" else "b"
    assert keys.verify(secret) == key
    for wrong in (secret[:-1] + changed, secret[:-1], secret + "a", f"icw-{'0' * 8}-{'a' * 43}"):
        assert keys.verify(wrong) is None
        assert match(wrong, keys.active()) is None


@pytest.mark.parametrize("odd", ["", "\n", "\ud800", "\u0661", "a" * 1_000_000])
def test_odd_texts_are_safe_to_look_up(keys: ApiKeys, odd: str) -> None:
    _, secret = keys.create("laptop")
    for text in (odd, f"icw-{odd}", f"{secret[:-1]}{odd}"):
        assert keys.verify(text) is None
        assert match(text, keys.active()) is None


def test_the_ring_reads_once_per_refresh(ring: KeyRing, keys: CountingKeys, clock: Clock) -> None:
    _, secret = keys.create("laptop")
    for _ in range(100):
        assert ring.lookup(secret) is not None
        assert ring.lookup("icw-unknown") is None
        assert ring.any()
        clock.now += 0.0199
    assert keys.reads == 1
    clock.now += 0.02
    assert ring.lookup(secret) is not None
    assert keys.reads == 2


def test_the_ring_follows_the_store(ring: KeyRing, keys: CountingKeys, clock: Clock) -> None:
    assert not ring.any()
    key, secret = keys.create("laptop")
    clock.now += 2.0
    assert ring.any()
    assert ring.lookup(secret) == key
    keys.revoke("laptop")
    assert ring.lookup(secret) == key  # within refresh_seconds
    clock.now += 2.0
    assert ring.lookup(secret) is None
    assert not ring.any()


def test_a_refresh_in_another_thread_spares_the_lookup(
    ring: KeyRing, keys: CountingKeys, clock: Clock
) -> None:
    _, secret = keys.create("laptop")
    ring.refresh()
    clock.now += 1.5
    ring.refresh()
    clock.now += 1.5
    keys.reads = 0
    assert ring.lookup(secret) is not None
    assert keys.reads == 0


def test_an_absent_store_is_tolerated_for_a_while_and_said(
    ring: KeyRing, keys: CountingKeys, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    key, secret = keys.create("laptop")
    assert ring.lookup(secret) == key
    assert ring.degraded is None
    keys.broken = True
    clock.now += 10.0
    with caplog.at_level(logging.WARNING, logger="serve.keyring"):
        assert ring.lookup(secret) == key
        assert ring.lookup(secret) == key
    assert [record.message for record in caplog.records] == [
        "API keys were not refreshed: the server is away"
    ]
    assert ring.degraded == "the server is away"
    assert keys.reads == 2

    clock.now += 0.1
    with pytest.raises(UnavailableError, match="cannot be checked: the server is away"):
        ring.lookup(secret)
    clock.now += 2.0
    with pytest.raises(UnavailableError, match="cannot be checked: the server is away"):
        ring.any()

    keys.broken = False
    clock.now += 2.0
    assert ring.lookup(secret) == key
    assert ring.degraded is None


class SlowKeys(CountingKeys):
    """A store that answers, or fails, when it is told to."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked = threading.Event()
        self.answer = threading.Event()
        self.answer.set()

    def active(self) -> dict[str, StoredKey]:
        self.asked.set()
        assert self.answer.wait(60)
        return super().active()


def finish(reader: threading.Thread) -> None:
    reader.join(60)
    assert not reader.is_alive()


@pytest.mark.parametrize("broken", [False, True])
def test_a_lookup_does_not_wait_while_the_store_is_slow(
    store: Store, clock: Clock, broken: bool
) -> None:
    keys = SlowKeys(store)
    key, secret = keys.create("laptop")
    ring = KeyRing(keys, refresh_seconds=2.0, clock=clock, stale_seconds=10.0)
    ring.refresh()
    keys.asked.clear()
    keys.answer.clear()
    keys.broken = broken
    clock.now += 1.9
    reader = threading.Thread(target=ring.refresh)
    reader.start()
    assert keys.asked.wait(60)
    try:
        # this thread would wait for the lock, or for the store, without an end
        for _ in range(4):
            assert ring.lookup(secret) == key
            clock.now += 2.0
        clock.now += 0.2
        with pytest.raises(UnavailableError, match="the store does not answer"):
            ring.lookup(secret)
    finally:
        keys.broken = broken
        clock.now -= 1.0
        keys.answer.set()
        finish(reader)
    # the read took seconds, and the next one waits all the same
    assert ring.lookup(secret) == key
    assert keys.reads == 2
    assert (ring.degraded is not None) == broken


def test_the_first_lookup_waits_for_a_read_that_is_under_way(store: Store, clock: Clock) -> None:
    keys = SlowKeys(store)
    key, secret = keys.create("laptop")
    ring = KeyRing(keys, clock=clock)
    keys.answer.clear()
    reader = threading.Thread(target=ring.refresh)
    reader.start()
    assert keys.asked.wait(60)
    found: list[ApiKey | None] = []
    other = threading.Thread(target=lambda: found.append(ring.lookup(secret)))
    other.start()
    keys.answer.set()
    finish(reader)
    finish(other)
    assert found == [key]
    assert keys.reads == 1


def test_a_ring_that_never_read_refuses_to_answer(ring: KeyRing, keys: CountingKeys) -> None:
    keys.broken = True
    for _ in range(2):
        with pytest.raises(UnavailableError, match="cannot be checked: the server is away") as info:
            ring.lookup("icw-00000000-" + "a" * 43)
        assert info.value.retry_after == 2.0
    assert keys.reads == 1


def test_uses_are_written_when_flushed_and_kept_when_that_fails(
    ring: KeyRing, keys: CountingKeys
) -> None:
    used, secret = keys.create("laptop")
    keys.create("phone")
    ring.lookup(secret)
    keys.broken = True
    with pytest.raises(StoreError, match="the server is away"):
        ring.flush()
    keys.broken = False
    ring.flush()

    def last_used(keys: ApiKeys) -> dict[str, bool]:
        return {key.name: key.last_used_at is not None for key in keys.list()}

    assert last_used(keys) == {"laptop": True, "phone": False}
    assert isinstance(used, ApiKey)
