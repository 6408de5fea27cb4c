"""Small files of a run, in a folder and in a bucket that is only memory."""

from __future__ import annotations

import errno
import json
import threading
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ironcliw.buckets import below
from ironcliw.errors import CheckpointError
from ironcliw.retries import Retry
from tests.unit.train.checkpoint.object_server import serve_objects
from train.checkpoint.store import CheckpointStore
from train.run_files import RunFiles


@pytest.fixture(params=["folder", "file", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> RunFiles:
    uri = {
        "folder": f"{tmp_path}/run/",
        "file": f"file://{tmp_path}/run",
        "bucket": f"memory://bucket-{uuid.uuid4().hex}/run",
    }[request.param]
    found = RunFiles(uri)
    assert found.is_local == (request.param != "bucket")
    return found


def test_what_is_written_is_read(files: RunFiles) -> None:
    assert files.read("outcome.json") is None
    files.write("outcome.json", {"loss": 0.5, "rows": [1, 2]})
    files.write("outcome.json", {"loss": 0.25})
    assert files.read("outcome.json") == {"loss": 0.25}
    files.remove("outcome.json")
    assert files.read("outcome.json") is None
    assert files.path("a") == files.uri + "/a"


def test_a_folder_is_uploaded(files: RunFiles, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.json", "b.json"):
        (source / name).write_text(json.dumps({"name": name}))
    files.upload(source, "adapter")
    assert files.read("adapter/b.json") == {"name": "b.json"}
    files.upload(source, "adapter")  # an attempt that died here does it again
    assert files.read("adapter/a.json") == {"name": "a.json"}


def test_folders_in_a_folder_are_kept(files: RunFiles, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    (source / "1_Pooling" / "deep").mkdir(parents=True)
    for name in ("a.json", "1_Pooling/a.json", "1_Pooling/deep/b.json"):
        (source / name).write_text(name)
    files.upload(source, "model")
    files.upload(source, "model-2")
    back.mkdir()
    files.download("model", back)
    found = {str(path.relative_to(back)): path for path in back.rglob("*") if path.is_file()}
    assert {name: path.read_text() for name, path in found.items()} == {
        name: name for name in ("a.json", "1_Pooling/a.json", "1_Pooling/deep/b.json")
    }
    with pytest.raises(CheckpointError, match=r"adapter cannot be read .*holds no file"):
        files.download("adapter", back)


@pytest.mark.parametrize(
    "uri",
    ["s3://key:secret@bucket/runs/one?{}&region=us-east-1", "gs://anonymous@bucket/runs/one?{}"],
)
def test_a_bucket_is_reached_as_for_checkpoints(uri: str, tmp_path: Path) -> None:
    """By Arrow's client, with the options that a URI has, and without making a folder."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.json").write_text('{"name": "a"}')
    (source / "deep").mkdir()
    (source / "deep" / "b.json").write_text("b")
    with serve_objects() as objects:
        files = RunFiles(uri.format(f"endpoint_override=127.0.0.1:{objects.port}&scheme=http"))
        assert not files.is_local
        assert files.read("outcome.json") is None
        files.write("outcome.json", {"loss": 0.5})
        files.upload(source, "adapter")
        assert objects.content.keys() == {
            "runs/one/outcome.json",
            "runs/one/adapter/a.json",
            "runs/one/adapter/deep/b.json",
        }
        assert files.read("outcome.json") == {"loss": 0.5}
        # the same file by the URI that is told
        adapter = files.path("adapter")
        assert RunFiles(adapter).read("a.json") == {"name": "a"}
        assert CheckpointStore(files.path("checkpoints")).all() == []
        (tmp_path / "back").mkdir()
        files.download("adapter", tmp_path / "back")
        assert (tmp_path / "back" / "a.json").read_text() == '{"name": "a"}'
        assert (tmp_path / "back" / "deep" / "b.json").read_text() == "b"
        files.remove("outcome.json")
        assert files.read("outcome.json") is None


def test_a_uri_that_names_no_bucket_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot be kept there: gs:///runs cannot be used"):
        RunFiles("gs:///runs")


@pytest.mark.parametrize("text", ["{", "3", '"x"', "\xff"])
def test_a_damaged_file_is_named(text: str, files: RunFiles) -> None:
    files.write_text("attempts.json", text)
    with pytest.raises(CheckpointError, match=r"attempts\.json cannot be read"):
        files.read("attempts.json")


def test_a_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    (tmp_path / "source").mkdir()
    files = RunFiles(str(tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"outcome\.json cannot be written"):
        files.write("outcome.json", {})
    with pytest.raises(CheckpointError, match=r"run/adapter cannot be written"):
        files.upload(tmp_path / "source", "adapter")


def test_what_could_not_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RunFiles(str(tmp_path))

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="No space left"):
        patch.setattr(Path, "replace", full)
        files.write("outcome.json", {})
    assert list(tmp_path.iterdir()) == []


def test_workers_that_write_at_the_same_time_leave_one_whole_file(tmp_path: Path) -> None:
    files, errors = RunFiles(str(tmp_path)), []
    start = threading.Barrier(8, timeout=60)

    def write(rank: int) -> None:
        start.wait()
        try:
            for _ in range(20):
                files.write("outcome.json", {"rank": rank, "text": "x" * 20_000})
        except CheckpointError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    found = files.read("outcome.json")
    assert found is not None
    assert len(found["text"]) == 20_000
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["outcome.json"]


class Flaky(MemoryFileSystem):
    """A bucket of which every operation fails twice, and then succeeds."""

    protocol = "flaky"
    cachable = False
    failures = 0
    error: Exception = OSError(104, "Connection reset by peer")

    def _fail(self) -> None:
        Flaky.failures += 1
        if Flaky.failures % 3:
            raise Flaky.error

    def cat_file(self, *given: Any, **options: Any) -> bytes:
        self._fail()
        return bytes(super().cat_file(*given, **options))

    def pipe_file(self, *given: Any, **options: Any) -> None:
        self._fail()
        super().pipe_file(*given, **options)

    def put_file(self, *given: Any, **options: Any) -> None:
        self._fail()
        super().put_file(*given, **options)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> RunFiles:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(Flaky, "failures", 0)
    monkeypatch.setattr("train.run_files.RETRY", Retry(sleep=lambda seconds: None))
    return RunFiles(f"flaky://{uuid.uuid4().hex}/run")


def test_errors_that_pass_are_waited_for(flaky: RunFiles, tmp_path: Path) -> None:
    flaky.write("outcome.json", {"a": 1})
    assert flaky.read("outcome.json") == {"a": 1}
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x").write_bytes(b"abc")
    flaky.upload(tmp_path / "source", "adapter")
    (tmp_path / "back").mkdir()
    flaky.download("adapter", tmp_path / "back")
    assert (tmp_path / "back" / "x").read_bytes() == b"abc"
    assert Flaky.failures == 12


def test_errors_of_a_client_become_ours(flaky: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    # gcsfs and others raise what is no OSError
    monkeypatch.setattr(Flaky, "error", RuntimeError("forbidden"))
    with pytest.raises(CheckpointError, match=r"outcome\.json cannot be written \(forbidden\)"):
        flaky.write("outcome.json", {})
    with pytest.raises(CheckpointError, match=r"outcome\.json cannot be read \(forbidden\)"):
        flaky.read("outcome.json")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/runs/one", "/runs/one/a"),
        ("/runs/what?", "/runs/what?/a"),  # a folder's name, and no options
        ("gs://bucket/one", "gs://bucket/one/a"),
        ("gs://bucket/one/?scheme=http", "gs://bucket/one/a?scheme=http"),
    ],
)
def test_a_name_comes_before_a_uris_options(uri: str, expected: str) -> None:
    assert below(uri, "a") == expected
