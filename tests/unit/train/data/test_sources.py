"""Paths, folders, patterns and URIs to files."""

from __future__ import annotations

import glob
import sys
from pathlib import Path

import fsspec
import pytest

from ironcliw.errors import DataError, UnsupportedError
from train.data.options import DataOptions
from train.data.read import how_to_read, in_process, with_ray_data
from train.data.sources import expand, read_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.csv", "c.jsonl.gz", "notes.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "d.json").write_text("d")
    return tmp_path


def test_local_files(folder: Path) -> None:
    def names(*paths: str) -> list[str]:
        return [
            str(Path(one).relative_to(folder)) for one in expand([f"{folder}/{p}" for p in paths])
        ]

    assert names("") == ["a.csv", "b.jsonl", "c.jsonl.gz"]
    assert names("*.jsonl", "a.csv", "b.jsonl") == ["b.jsonl", "a.csv"]
    assert names("**/*.json") == ["inner/d.json"]
    # what is named by itself is read whatever it is called
    assert names("notes.md") == ["notes.md"]
    assert read_bytes(str(folder / "a.csv")) == b"a.csv"


def test_files_of_a_pattern_are_sorted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [str(folder / "b.jsonl"), str(folder / "a.csv")]
    # file systems list in any order
    monkeypatch.setattr(glob, "glob", lambda *_, **__: found)
    assert expand([f"{folder}/*"]) == sorted(found)


def test_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert expand(["~/a.csv"]) == [str(folder / "a.csv")]


def test_every_path_that_leads_nowhere_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no file is found at '.*/x\.jsonl', '.*/\*\.parquet'; gi"):
        expand([f"{folder}/x.jsonl", f"{folder}/a.csv", f"{folder}/*.parquet"])
    with pytest.raises(DataError, match=r"set data\.train to a file"):
        expand([])


def sparse(file: Path, size: int) -> Path:
    """A file that takes no room on the disk."""
    file.parent.mkdir(exist_ok=True)
    with file.open("wb") as stream:
        stream.truncate(size)
    return file


@pytest.mark.parametrize(
    ("train", "held_out", "is_small"),
    [
        ("some/*.jsonl", "", True),
        ("some", "", True),
        ("large", "", False),
        ("some", "large/c.jsonl", False),
        ("some", "some-more", False),
        ("memory://elsewhere/d.jsonl", "", False),
    ],
)
def test_large_files_are_read_over_the_cluster(
    train: str, held_out: str, is_small: bool, tmp_path: Path
) -> None:
    fsspec.filesystem("memory").pipe("/elsewhere/d.jsonl", b"{}")
    for name, size in (("some/a", 40), ("some-more/b", 40), ("large/c", 65)):
        sparse(tmp_path / f"{name}.jsonl", size << 20)
    first = train if "://" in train else f"{tmp_path}/{train}"
    options = DataOptions(train=(first,), eval=(f"{tmp_path}/{held_out}",) if held_out else ())
    assert (how_to_read(options) is in_process) is is_small
    assert (how_to_read(options) is with_ray_data) is not is_small


def test_uris() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("b.jsonl", "a.jsonl", "x.txt"):
        memory.pipe(f"/bucket/{name}", name.encode())
    try:
        found = expand(["memory://bucket/*.jsonl"])
        assert [uri.rpartition("/")[2] for uri in found] == ["a.jsonl", "b.jsonl"]
        assert [read_bytes(one) for one in expand(["memory://bucket"])] == [b"a.jsonl", b"b.jsonl"]
        assert expand(["memory://bucket/x.txt"]) == ["memory://bucket/x.txt"]
        with pytest.raises(DataError, match=r"no file is found at 'memory://bucket/y\.jsonl'"):
            expand(["memory://bucket/y.jsonl"])
    finally:
        memory.rm("/bucket", recursive=True)


def test_storage_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class DeniedError(Exception):
        """As gcsfs raises: no OSError."""

    def refuse(*_: object, **__: object) -> None:
        raise DeniedError("403")

    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(type(memory), "open", refuse)
    monkeypatch.setattr(type(memory), "exists", refuse)
    with pytest.raises(OSError, match="403"):
        read_bytes("memory://bucket/a.jsonl")
    with pytest.raises(DataError, match=r"memory://bucket/a\.jsonl cannot be listed \(403\)"):
        expand(["memory://bucket/a.jsonl"])


def test_an_unknown_scheme() -> None:
    with pytest.raises(DataError, match="of the unknown scheme 'nowhere'"):
        expand(["nowhere://bucket/a.jsonl"])


def test_a_package_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UnsupportedError, match=r"'gs://b/a.jsonl' needs a package that .*\[gcp\]"):
        expand(["gs://b/a.jsonl"])
