"""What is written appears whole or not at all."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ironcliw.errors import ConflictError, ModelLoadError, StoreError
from train.copying import copy_folder
from train.export.target import staging, whole


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file of this process can grow beyond a size: a disk that is full, to whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_and_a_folder(tmp_path: Path) -> None:
    with whole(tmp_path / "deep" / "file.gguf") as work:
        work.write_text("all")
        assert not (tmp_path / "deep" / "file.gguf").exists()
    assert (tmp_path / "deep" / "file.gguf").read_text() == "all"
    (tmp_path / "model").mkdir()  # an empty folder is as good as none
    with whole(tmp_path / "model") as work:
        work.mkdir()
        (work / "config.json").write_text("{}")
    assert [each.name for each in (tmp_path / "model").iterdir()] == ["config.json"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["deep", "model"]


def test_what_is_there_stays_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("old")
    with pytest.raises(ConflictError, match=r"model exists already; .* --force"):
        with whole(tmp_path / "model"):
            pytest.fail("nothing is to be written")
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "model", force=True) as work:
        work.mkdir()
        raise ZeroDivisionError
    assert [each.name for each in (tmp_path / "model").iterdir()] == ["old"]
    with whole(tmp_path / "model", force=True) as work:
        work.mkdir()
        (work / "new").write_text("new")
    assert [each.name for each in (tmp_path / "model").iterdir()] == ["new"]
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    with small_files(1000):
        with pytest.raises(StoreError, match=r"file cannot be written .*make room") as told:
            with whole(tmp_path / "file", force=True) as work:
                work.write_bytes(bytes(5000))
    assert told.value.code == "disk_full"
    assert (tmp_path / "file").read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_no_room_is_seen_before(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"would have about 1000000\.00 GB, and the disk has"):
        with whole(tmp_path / "file", room=10**15):
            pytest.fail("nothing is to be written")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot be written \(.*see that the folder is there"):
        with whole(tmp_path / "file" / "below"):
            pytest.fail("nothing is to be written")


def test_what_cannot_be_read_is_not_the_targets_fault(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelLoadError, match=r"source/gone cannot be read \(No such file"):
        with whole(tmp_path / "target") as work:
            copy_folder(tmp_path / "source", work)
    with pytest.raises(ModelLoadError, match=r"nothing cannot be read"):
        with whole(tmp_path / "target") as work:
            (tmp_path / "nothing").read_bytes()
    with pytest.raises(StoreError, match=r"target cannot be written .* may be written"):
        with whole(tmp_path / "target") as work:
            (work / "below").write_text("its folder is not there")
    assert [each.name for each in tmp_path.iterdir()] == ["source"]


def test_a_folder_is_copied_until_the_disk_is_full(tmp_path: Path) -> None:
    (tmp_path / "source" / "deep").mkdir(parents=True)
    (tmp_path / "source" / "deep" / "file").write_bytes(bytes(5000))
    (tmp_path / "source" / ".left").touch()
    copy_folder(tmp_path / "source", tmp_path / "copy", lambda path: path.name == ".left")
    assert sorted(each.name for each in (tmp_path / "copy").rglob("*")) == ["deep", "file"]
    with small_files(1000):
        with pytest.raises(StoreError, match=r"target cannot be written .*make room") as told:
            with whole(tmp_path / "target") as work:
                copy_folder(tmp_path / "source", work)
    assert told.value.code == "disk_full"


def test_a_staging_folder_without_room(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"would have about .*IRONCLIW_STATE_DIR"):
        with staging(tmp_path / "stage", room=10**15):
            pytest.fail("nothing is to be written")
    with small_files(1000):
        with pytest.raises(StoreError, match=r"has no room .* before they are sent") as told:
            with staging(tmp_path / "stage") as folder:
                (folder / "file").write_bytes(bytes(5000))
    assert told.value.code == "disk_full"
    with pytest.raises(ConnectionResetError), staging(tmp_path / "stage"):
        raise ConnectionResetError
    assert not list((tmp_path / "stage").iterdir())
