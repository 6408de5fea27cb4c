"""What a run keeps beside its checkpoints, in a folder or a bucket.

checkpoints/    see `train.checkpoint`
config.json     the configuration that the run was begun with
attempts.json   how often it was started without getting further
lock.json       which job has it (see `train.run_lock`)
outcome.json    how it ended: finished, or failed and why
reference/      of a run on preferences: log-probabilities of the model before training
log.jsonl       of a finished run: a line for each step
evaluation.*    of a finished run: what was measured, as JSON and as a page
tensorboard/    curves, as TensorBoard reads them
loss.png        of a finished run: the curves as a picture
adapter/        of a finished run: the adapter in peft's format
model/          of a finished run without adapters: the model
"""

from __future__ import annotations

import contextlib
import functools
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper

from ironcliw.buckets import below, connect
from ironcliw.durable import sync
from ironcliw.errors import CheckpointError, StoreError
from ironcliw.retries import Retry, one_line
from ironcliw.settings import Settings

Result = TypeVar("Result")

RETRY = Retry()
PATIENCE = Retry(attempts=20, first_seconds=1.0, most_seconds=20.0)
"""For what an attempt cannot begin without: with each operation's own tries some eight minutes."""

CHECKPOINTS = "checkpoints"
ADAPTER, MODEL = "adapter", "model"
REFERENCE, HELD_OUT_REFERENCE = "reference", "held-out-reference"
CONFIG, ATTEMPTS, OUTCOME = "config.json", "attempts.json", "outcome.json"
LOG = "log.jsonl"
EVALUATION, EVALUATION_PAGE = "evaluation.json", "evaluation.md"


def run_uri(run: str, settings: Settings) -> str:
    """Of a run's folder, from its name or from that URI itself."""
    return run if "/" in run else str(settings.state_dir / "train" / run)


class RunFiles:
    """Small files of a run.

    Args:
        uri: A folder, `s3://`, `gs://` (see `ironcliw.buckets`) or another URI that fsspec knows.

    Raises:
        CheckpointError: the URI is wrong, or the client for it is not installed.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        try:
            self._files, self._root = _connected(self.uri)
        except (ImportError, StoreError, ValueError) as error:
            raise CheckpointError(f"a run cannot be kept there: {one_line(error)}") from error

    def path(self, name: str) -> str:
        """URI of a file or folder of the run."""
        return below(self.uri, name)

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file; None where it is not there.

        Raises:
            CheckpointError: it cannot be read.
        """
        path = f"{self._root}/{name}"
        try:
            return dict(json.loads(self._again(lambda: self._files.cat_file(path), name)))
        except FileNotFoundError:
            return None
        except Exception as error:  # clients raise classes of their own: all become ours
            raise self._unreadable(name, error) from error

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_text(name, json.dumps(values, indent=2))

    def write_text(self, name: str, text: str) -> None:
        """As `write_bytes`, in UTF-8."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; when this returns, it is durable.

        Raises:
            CheckpointError: it cannot be written.
        """
        target = f"{self._root}/{name}"

        def write() -> None:
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            if self.is_local:
                # an object in a bucket appears whole; a file does when it is renamed
                # its own name: several workers may have the same to say at the same time
                new = Path(f"{target}.{secrets.token_hex(4)}.new")
                try:
                    new.write_bytes(content)
                    sync(new)
                    new.replace(target)
                    sync(new.parent)
                except BaseException:
                    # a full disk must not fill up with what was begun
                    with contextlib.suppress(OSError):
                        new.unlink()
                    raise
            else:
                self._files.pipe_file(target, content)

        self._written(write, name)

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            CheckpointError: it cannot be removed.
        """
        self._written(lambda: self._files.rm_file(f"{self._root}/{name}"), name)

    def upload(self, folder: Path, name: str) -> None:
        """Copy a local folder's files into the run, those of its folders included.

        When this returns they are durable: what is written after it may say that they are there.

        Raises:
            CheckpointError: they cannot be written.
        """
        target = f"{self._root}/{name}"
        self._written(lambda: self._files.makedirs(target, exist_ok=True), name)
        for file in sorted(folder.iterdir()):
            if file.is_dir():
                self.upload(file, f"{name}/{file.name}")
            else:
                self.upload_file(file, f"{name}/{file.name}")
        if self.is_local:
            self._written(lambda: sync(Path(target)), name)
            self._written(lambda: sync(Path(target).parent), name)

    def upload_file(self, file: Path, name: str) -> None:
        """Copy a local file into the run.

        Raises:
            CheckpointError: it cannot be written.
        """
        target = f"{self._root}/{name}"

        def put() -> None:
            self._files.put_file(str(file), target)
            if self.is_local:
                sync(Path(target))

        self._written(put, name)

    def download(self, name: str, folder: Path) -> None:
        """Copy a folder of the run to a local one, with the folders in it.

        Raises:
            CheckpointError: it cannot be read.
        """
        root = f"{self._root}/{name}"
        try:
            found = self._again(lambda: self._files.find(root), name)
            if not found:
                raise FileNotFoundError(f"{root} holds no file")
            for path in found:
                content = self._again(functools.partial(self._files.cat_file, path), name)
                target = folder / path.removeprefix(f"{root}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        except Exception as error:  # clients raise classes of their own: all become ours
            raise self._unreadable(name, error) from error

    def _again(self, operation: Callable[[], Result], name: str) -> Result:
        """In a bucket until it succeeds or fails for good; of a folder no error passes."""
        if self.is_local:
            return operation()
        return RETRY.call(operation, self.path(name))

    def _written(self, operation: Callable[[], None], name: str) -> None:
        try:
            self._again(operation, name)
        except Exception as error:  # clients raise classes of their own: all become ours
            raise CheckpointError(
                f"{self.path(name)} cannot be written ({one_line(error)}); see that the storage is "
                "there, may be written and has room"
            ) from error

    def _unreadable(self, name: str, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self.path(name)} cannot be read ({one_line(error)}); see the storage, or remove the "
            "file"
        )

    @property
    def folder(self) -> Path:
        """Where it is on this machine; only of one that is."""
        assert self.is_local, f"{self.uri} is no folder of this machine"
        return Path(self._root)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        protocol = self._files.protocol
        return "file" in ([protocol] if isinstance(protocol, str) else protocol)


class _Objects(ArrowFSWrapper):  # type: ignore[misc]  # fsspec has no types
    """What fsspec expects, over a client of Arrow's."""

    cachable = False

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Buckets have no folders: to make one needs rights to the bucket, and leaves an object."""

    def find(self, path: str, **options: Any) -> list[str]:
        """All objects below. Not level by level: GCS knows no folders, and Arrow invents none."""
        from pyarrow import fs

        selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
        return sorted(info.path for info in self.fs.get_file_info(selector) if info.is_file)


def _connected(uri: str) -> tuple[Any, str]:
    """A file system of fsspec's, and the folder in it; of buckets by the checkpoints' client."""
    if urlsplit(uri).scheme in ("s3", "gs", "gcs"):
        bucket = connect(uri)
        return _Objects(bucket.system), bucket.root
    found: tuple[Any, str] = fsspec.url_to_fs(uri)
    return found
