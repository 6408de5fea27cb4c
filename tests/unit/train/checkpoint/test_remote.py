"""Checkpoints in a bucket, through the real clients and a server on this machine.

The server is a thread of this process, so a call that kept Python's lock would never be answered.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

import pytest
import torch

from ironcliw import buckets
from ironcliw.errors import CheckpointError
from ironcliw.retries import Retry
from tests.unit.train.checkpoint.dying_saves import DyingSaves, dying_saves
from tests.unit.train.checkpoint.object_server import LOST, RESET, Objects, serve_objects
from tests.unit.train.checkpoint.samples import FINGERPRINT, assert_is, snapshot
from train.checkpoint import faults, remote
from train.checkpoint.faults import Recorder
from train.checkpoint.store import CheckpointStore

OLD, NEW = 2, 3
COMMIT = "manifest-put"
KINDS = ("s3", "gs")
# what a client sends that changes something, and what it sends that does not
PUT = {"s3": r"^(PUT|POST) /bucket/run/step", "gs": r"^(PUT|POST) /upload"}
GET = {"s3": r"^GET /bucket/run/step", "gs": r"^GET .*alt=media"}
LIST = {"s3": r"^GET /bucket list-type", "gs": r"^GET /storage/v1/b/bucket/o prefix"}


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    monkeypatch.setattr(remote, "RETRY", Retry(sleep=lambda seconds: None))
    # GCS's own client gives up after this, and then the attempts are ours
    monkeypatch.setattr(buckets, "CLIENT_RETRY_SECONDS", 0.01)
    with serve_objects() as server:
        yield server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def saves() -> Iterator[DyingSaves]:
    with dying_saves() as program:
        yield program


def uri_of(kind: str, objects: Objects) -> str:
    endpoint = f"endpoint_override=127.0.0.1:{objects.port}&scheme=http"
    if kind == "s3":
        return f"s3://key:secret@bucket/run?{endpoint}&region=us-east-1"
    return f"gs://anonymous@bucket/run?{endpoint}"


def checkpoints(objects: Objects) -> set[str]:
    """Names of the folders that hold anything."""
    return {key.split("/")[1] for key in objects.content if key.startswith("run/step-")}


def test_what_was_committed_comes_back(kind: str, objects: Objects) -> None:
    store = CheckpointStore(uri_of(kind, objects))
    assert store.newest() is None
    for step in (1, 2, 3):
        store.commit(snapshot(step))
    checkpoint = CheckpointStore(uri_of(kind, objects), read_only=True).newest(FINGERPRINT)
    assert_is(checkpoint, 3)
    assert [manifest.step for manifest in store.all()] == [3, 2]
    assert len(checkpoints(objects)) == 2, "nothing of the removed one is left"
    assert checkpoint is not None
    assert checkpoint.location.startswith(f"{kind}://bucket/run/step-00000003-")
    assert "secret" not in repr(store) + checkpoint.location


def test_a_kill_anywhere_leaves_the_old_or_the_new(
    kind: str, objects: Objects, saves: DyingSaves, caplog: pytest.LogCaptureFixture
) -> None:
    uri = uri_of(kind, objects)
    for step in (OLD - 1, OLD):
        CheckpointStore(uri).commit(snapshot(step))
    objects.content["run/step-00000009-0123456789ab01234567/state.json"] = b"x"
    objects.modified["run/step-00000009-0123456789ab01234567/state.json"] = 0.0
    prepared = dict(objects.content)
    recorder = Recorder()
    CheckpointStore(uri, faults=recorder).commit(snapshot(NEW))
    assert set(recorder.reached) == set(faults.REMOTE_POINTS)
    for n, point in enumerate(recorder.reached):
        objects.content = dict(prepared)
        visit = recorder.reached[: n + 1].count(point)
        assert saves.save(uri, NEW, point, visit) == -9, point
        committed = n >= recorder.reached.index(COMMIT)
        assert_is(CheckpointStore(uri, read_only=True).newest(), NEW if committed else OLD)
    assert "DAMAGED" not in caplog.text, "an unfinished save is no checkpoint"
    assert saves.save(uri, NEW + 1) == 0
    # a save that was killed is removed once it is old enough
    for key in objects.modified:
        objects.modified[key] -= 7 * 3600
    store = CheckpointStore(uri)
    assert len(checkpoints(objects)) == len(store.all()) == 2
    assert_is(store.newest(), NEW + 1)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *(("s3", fault) for fault in (408, 429, 500, 502, 503, 504, RESET, LOST)),
        # its client makes one code of them all, and waits a second by itself each time
        *(("gs", fault) for fault in (503, RESET)),
        *(pytest.param("gs", fault, marks=pytest.mark.slow) for fault in (429, LOST)),
    ],
)
def test_passing_errors_are_retried(
    kind: str, fault: int, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(uri_of(kind, objects))
    store.commit(snapshot(OLD))
    objects.fail(PUT[kind], fault, fault)
    store.commit(snapshot(NEW))
    for pattern in (GET[kind], LIST[kind]):
        objects.fail(pattern, fault)
    assert_is(store.newest(), NEW)
    assert objects.faults == [], "all were met"
    told = [record for record in caplog.records if "again in" in record.message]
    assert told and all(record.levelno == logging.WARNING for record in told)


@pytest.mark.parametrize("status", [401, 403])
def test_lasting_errors_are_not_retried(kind: str, status: int, objects: Objects) -> None:
    store = CheckpointStore(uri_of(kind, objects))
    store.commit(snapshot(OLD))
    objects.fail(PUT[kind], status)
    with pytest.raises(CheckpointError, match=r"^writing .*step-00000003-.*failed: .*account"):
        store.commit(snapshot(NEW))
    assert_is(store.newest(), OLD)
    objects.fail(LIST[kind], status)
    with pytest.raises(CheckpointError, match=r"^listing .*bucket/run failed: "):
        store.newest()
    assert_is(store.newest(), OLD)


def test_a_service_that_does_not_come_back(
    kind: str, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint is not taken for damaged, nor the one before it used, by an outage."""
    monkeypatch.setattr(remote, "RETRY", Retry(attempts=2, sleep=lambda seconds: None))
    store = CheckpointStore(uri_of(kind, objects))
    store.commit(snapshot(OLD))
    store.commit(snapshot(NEW))
    objects.fail(GET[kind], *[503] * 1000)
    with pytest.raises(CheckpointError, match=r"^reading .* failed: .*it may pass") as caught:
        store.newest()
    assert type(caught.value) is CheckpointError
    objects.faults.clear()
    assert_is(store.newest(), NEW)


def test_an_unwritable_bucket_is_told_at_the_start(kind: str, objects: Objects) -> None:
    objects.fail(r"^(PUT|POST)", 403)
    with pytest.raises(CheckpointError, match=r"^writing .*bucket/run/\.writable failed"):
        CheckpointStore(uri_of(kind, objects))


@pytest.mark.parametrize("file", ["adapter.safetensors", "state.json", "manifest.json"])
def test_a_damaged_object_is_found(
    kind: str, file: str, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(uri_of(kind, objects))
    for step in (OLD, NEW):
        store.commit(snapshot(step))
    [key] = [key for key in objects.content if "step-00000003" in key and key.endswith(file)]
    damaged = bytearray(objects.content[key])
    damaged[len(damaged) // 2] ^= 1
    objects.content[key] = bytes(damaged)
    assert_is(store.newest(), OLD)
    assert f"DAMAGED CHECKPOINT: {kind}://bucket/{key}" in caplog.text


def test_a_missing_object_is_found(kind: str, objects: Objects) -> None:
    store = CheckpointStore(uri_of(kind, objects))
    for step in (OLD, NEW):
        store.commit(snapshot(step))
    [key] = [key for key in objects.content if "step-00000003" in key and "state" in key]
    del objects.content[key]
    assert_is(store.newest(), OLD)


def test_a_young_leftover_and_other_objects_are_left_alone(kind: str, objects: Objects) -> None:
    uri = uri_of(kind, objects)
    young = "run/step-00000009-0123456789ab01234567/state.json"
    for key in (young, "run/notes/a.txt", "run/step-9/a.txt", "else/b.txt"):
        objects.content[key] = b"x"
        objects.modified[key] = 0.0
    CheckpointStore(uri, leftover_seconds=2e10)
    assert young in objects.content
    CheckpointStore(uri, leftover_seconds=3600)
    kept = {key for key in objects.content if not key.endswith("/")}
    assert kept == {"run/.writable", "run/notes/a.txt", "run/step-9/a.txt", "else/b.txt"}


def test_large_files_go_in_parts(kind: str, objects: Objects) -> None:
    store = CheckpointStore(uri_of(kind, objects))
    large = {"adapter/x": torch.arange(7_000_000, dtype=torch.float32)}
    objects.fail(r"^PUT .*(partNumber=2|upload_id=)", 503)
    store.commit(dataclasses.replace(snapshot(NEW), tensors=large))
    checkpoint = store.newest()
    assert checkpoint is not None
    assert torch.equal(checkpoint.tensors["adapter/x"], large["adapter/x"])
    parts = [asked for asked in objects.asked if "adapter" in asked and asked.startswith("PUT")]
    assert len(parts) > 1


def test_any_other_storage_goes_through_fsspec() -> None:
    store = CheckpointStore("memory://bucket/run")
    for step in (1, 2, 3):
        store.commit(snapshot(step))
    assert_is(store.newest(), 3)
    assert [manifest.step for manifest in store.all()] == [3, 2]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3:///run", "s3:///run cannot be used: it names no bucket"),
        ("gs://", "it names no bucket"),
        ("gs://bucket/run?regoin=x", r"the options \['regoin'\], known are"),
        ("carrier-pigeon://bucket/run", "carrier-pigeon://bucket/run cannot be used: Protocol not"),
    ],
)
def test_wrong_uris(uri: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        CheckpointStore(uri)


def test_credentials_are_not_shown(objects: Objects) -> None:
    objects.fail(r".", *[403] * 10)
    with pytest.raises(CheckpointError) as caught:
        CheckpointStore(uri_of("s3", objects))
    assert "secret" not in str(caught.value)
