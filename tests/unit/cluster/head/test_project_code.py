"""The archive that workers run, and how it is held in Ray's control service."""

from __future__ import annotations

import asyncio
import io
import os
import queue
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cluster.head import project_code
from ironcliw.errors import ClusterError


class Store:
    """What Ray's `packaging` module does for us."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from ray._private.runtime_env import packaging

        self.packages: dict[str, bytes] = {}
        self.pins: list[tuple[str, int]] = []
        self.failure: Exception | None = None
        self.holds: queue.SimpleQueue[None] = queue.SimpleQueue()
        monkeypatch.setattr(packaging, "package_exists", self._exists)
        monkeypatch.setattr(packaging, "upload_package_to_gcs", self._upload)
        monkeypatch.setattr(packaging, "pin_runtime_env_uri", self._pin)

    def _exists(self, uri: str) -> bool:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return uri in self.packages

    def _upload(self, uri: str, data: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.packages[uri] = data

    def _pin(self, uri: str, *, expiration_s: int) -> None:
        self.pins.append((uri, expiration_s))
        self.holds.put(None)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shipped_with_workers"
    for path in ("__init__.py", "inner/__init__.py", "inner/part.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"name = {path!r}\n")
    (folder / "__pycache__").mkdir()
    for path in ("__pycache__/part.pyc", "kernel.so", "README.md"):
        (folder / path).write_text("not for workers")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def names(code: project_code.ProjectCode) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(code.data)) as archive:
        return archive.namelist()


def test_python_files_and_nothing_else(package: Path) -> None:
    code = project_code.pack([package.name])
    files = ("__init__.py", "inner/__init__.py", "inner/part.py")
    assert names(code) == [f"{package.name}/{file}" for file in files]


def test_the_address_changes_with_the_content_alone(package: Path) -> None:
    before = project_code.pack([package.name])
    os.utime(package / "__init__.py", (0, 0))
    assert project_code.pack([package.name]) == before
    (package / "inner" / "part.py").write_text("changed = True\n")
    assert project_code.pack([package.name]).uri != before.uri


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(ClusterError, match="'no_such_package' is no folder that Python finds"):
        project_code.pack(["no_such_package"])


def test_a_package_without_init_may_lie_in_several_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("second", "first"):
        folder = tmp_path / place / "lies_in_two_folders"
        folder.mkdir(parents=True)
        (folder / "both.py").write_text(f"place = {place!r}\n")
        (folder / f"{place}.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path / place))
    code = project_code.pack(["lies_in_two_folders"])
    files = ("both.py", "first.py", "second.py")
    assert names(code) == [f"lies_in_two_folders/{file}" for file in files]
    with zipfile.ZipFile(io.BytesIO(code.data)) as archive:
        assert archive.read("lies_in_two_folders/both.py") == b"place = 'first'\n"


def test_a_replica_can_be_imported_from_the_archive_alone(tmp_path: Path) -> None:
    """No module that it imports is missing, and none is taken from this checkout."""
    code = project_code.pack()
    assert len(code.data) < 4_000_000
    with zipfile.ZipFile(io.BytesIO(code.data)) as archive:
        archive.extractall(tmp_path)
    program = (
        "import sys, actors.steps.worker, serve.replica, serve.host, serve.engines.registry, "
        "serve.engines.generation_engines\n"
        "ours = {'actors', 'cluster', 'ironcliw', 'native_ops', 'serve'}\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.partition('.')[0] in ours and getattr(module, '__file__', None):\n"
        "        print(module.__file__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    files = done.stdout.split()
    assert files
    assert all(file.startswith(str(tmp_path)) for file in files), files


def test_it_is_uploaded_once_and_held(store: Store) -> None:
    code = project_code.ProjectCode("gcs://a.zip", b"data")
    project_code.publish(code)
    store.packages["gcs://a.zip"] = b"the first one"
    project_code.publish(code)
    assert store.packages == {"gcs://a.zip": b"the first one"}
    assert [uri for uri, _ in store.pins] == ["gcs://a.zip"] * 2


def test_a_store_that_does_not_take_it_is_our_error(store: Store) -> None:
    store.failure = RuntimeError("no space left")
    with pytest.raises(ClusterError, match="no space left"):
        project_code.publish(project_code.ProjectCode("gcs://a.zip", b"data"))


async def keep_for(store: Store, uri: str, pins: int) -> None:
    keeping = asyncio.create_task(project_code.keep(uri, renew_seconds=0.001))
    for _ in range(pins):
        await asyncio.to_thread(store.holds.get, timeout=20)
    keeping.cancel()
    await asyncio.wait({keeping})


async def test_it_is_held_again_and_again(store: Store) -> None:
    store.packages["gcs://a.zip"] = b"data"
    store.failure = RuntimeError("the control service restarts")
    await keep_for(store, "gcs://a.zip", 3)
    assert set(store.pins) == {("gcs://a.zip", 600)}


async def test_one_that_got_lost_is_uploaded_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = project_code.ProjectCode("gcs://a.zip", b"data")
    monkeypatch.setattr(project_code, "pack", lambda packages: code)
    await keep_for(store, code.uri, 1)
    assert store.packages == {code.uri: code.data}


def test_other_code_is_not_put_in_the_place_of_what_got_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = project_code.ProjectCode("gcs://b.zip", b"other")
    monkeypatch.setattr(project_code, "pack", lambda packages: other)
    project_code._renew("gcs://a.zip")
    assert not store.packages
    assert "ironcliw down" in caplog.text
