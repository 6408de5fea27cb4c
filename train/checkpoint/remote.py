"""Checkpoints in a bucket: the objects of one are put one by one, its manifest last.

    ROOT/step-00000012-<attempt>/adapter.safetensors, ..., manifest.json

Objects appear whole or not at all, and S3 and GCS list what was put at once, so the manifest's put
is the commit. What a killed save leaves behind has no manifest; nothing tells it from the save of a
living process but its age. Parts of a multipart upload that was never completed are not listed: the
bucket's lifecycle rules remove them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ironcliw.buckets import connect
from ironcliw.errors import CheckpointError, StoreError
from ironcliw.retries import Retry, is_transient, one_line
from train.checkpoint.faults import Faults
from train.checkpoint.files import Part
from train.checkpoint.manifest import MANIFEST, FileEntry
from train.checkpoint.names import step_of

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

RETRY = Retry()
_PROBE = ".writable"
_READ_BYTES = 16 << 20


class RemoteFolder:
    """Files of checkpoints below one prefix of a bucket.

    Args:
        uri: `s3://bucket/path`, `gs://bucket/path` or another that fsspec knows.
        faults: What happens at the places of `faults.REMOTE_POINTS`.
        leftover_seconds: Age from which an unfinished save is removed.

    Raises:
        CheckpointError: the URI is wrong, or the client for it is not installed.
    """

    def __init__(self, uri: str, faults: Faults, leftover_seconds: float) -> None:
        try:
            self._bucket = connect(uri)
        except StoreError as error:
            raise CheckpointError(f"checkpoints cannot be stored: {error}") from error
        self._faults = faults
        self._leftover_seconds = leftover_seconds

    def where(self, name: str = "", file: str = "") -> str:
        """Of a checkpoint or of an object of it, for messages; without credentials."""
        return "/".join(part for part in (self._bucket.shown, name, file) if part)

    def open(self) -> None:
        """See that the bucket can be written, remove what killed saves left behind.

        Raises:
            CheckpointError: it cannot be reached or written.
        """
        self._put(_PROBE, lambda: [memoryview(b"")])
        self._remove_leftovers()

    def folders(self) -> list[str]:
        """Names of all that have a manifest.

        Raises:
            CheckpointError: the bucket cannot be listed.
        """
        return [name for name, files in self._listing().items() if MANIFEST in files]

    def read(self, name: str, file: str) -> bytes:
        """An object of a checkpoint.

        Raises:
            FileNotFoundError: it is not there.
            CheckpointError: it cannot be read.
        """

        def read() -> bytes:
            # not open_input_file: for GCS it keeps Python's lock while it asks for the size; and
            # not all in one call, which S3's client turns into a request for each 16 KiB
            with self._bucket.system.open_input_stream(self._path(name, file)) as stream:
                return b"".join(iter(lambda: stream.read(_READ_BYTES), b""))

        return self._try(read, f"reading {self.where(name, file)}")

    def write(
        self, name: str, parts: Sequence[Part], seal: Callable[[list[FileEntry]], bytes]
    ) -> None:
        """Put and commit a checkpoint.

        Args:
            name: Its folder's.
            parts: Its files.
            seal: Gives the manifest's bytes from the files that were put.

        Raises:
            CheckpointError: it could not be written.
        """
        with self.prepared(name, sum(part.size_bytes for part in parts)):
            self.commit(name, seal([self.write_part(name, part) for part in parts]))

    @contextlib.contextmanager
    def prepared(self, name: str, size_bytes: int) -> Iterator[None]:
        """Nothing has to be made for a checkpoint's objects."""
        self._faults.reach("begun")
        yield

    def write_part(self, name: str, part: Part) -> FileEntry:
        """Put an object of a checkpoint.

        Raises:
            CheckpointError: it could not be written.
        """
        digest = self._put(f"{name}/{part.name}", part.blocks)
        self._faults.reach("object-put")
        return FileEntry(part.name, part.size_bytes, digest)

    def commit(self, name: str, manifest: bytes) -> None:
        """Make a checkpoint of the objects that were put.

        Raises:
            CheckpointError: it could not be written.
        """
        held = memoryview(manifest)
        self._put(f"{name}/{MANIFEST}", lambda: [held])
        self._faults.reach("manifest-put")

    def remove(self, name: str) -> None:
        """Remove a checkpoint, whole for whoever lists the bucket: its manifest first.

        Raises:
            CheckpointError: it cannot be removed.
        """
        manifest = self._path(name, MANIFEST)
        self._delete(lambda: self._bucket.system.delete_file(manifest), name)
        self._faults.reach("old-manifest-deleted")
        self._delete_folder(name)
        self._faults.reach("old-deleted")

    def _delete_folder(self, name: str) -> None:
        self._delete(lambda: self._bucket.system.delete_dir(self._path(name)), name)

    def _delete(self, operation: Callable[[], None], name: str) -> None:
        try:
            self._try(operation, f"removing {self.where(name)}")
        except FileNotFoundError:
            pass  # another process, or an attempt whose answer was lost, was faster

    def _put(self, path: str, blocks: Callable[[], Iterable[memoryview]]) -> str:
        """Put an object, from its beginning at each attempt; the SHA-256 of its bytes."""

        def put() -> str:
            digest = hashlib.sha256()
            stream = self._bucket.system.open_output_stream(self._path(path))
            try:
                for block in blocks():
                    stream.write(block)
                    digest.update(block)
                    self._faults.reach("block-written")
            except BaseException:
                # completes a piece of the object, which no manifest names; left to the garbage
                # collector it would be done with Python's lock held
                with contextlib.suppress(Exception):
                    stream.close()
                raise
            stream.close()
            return digest.hexdigest()

        return self._try(put, f"writing {self.where(path)}")

    def _listing(self) -> dict[str, dict[str, Any]]:
        """What Arrow says of each object, by its checkpoint's name and its own."""

        def listing() -> list[Any]:
            # all below, not one level: GCS knows no folders and Arrow invents none there
            return list(self._bucket.list_files())

        found: dict[str, dict[str, Any]] = {}
        for info in self._try(listing, f"listing {self.where()}"):
            name, _, file = info.path.removeprefix(f"{self._bucket.root}/").partition("/")
            if file and step_of(name) is not None:
                found.setdefault(name, {})[file] = info
        return found

    def _remove_leftovers(self) -> None:
        for name, files in self._listing().items():
            moments = [info.mtime_ns for info in files.values()]
            if MANIFEST in files or None in moments:
                continue
            age = time.time() - max(moments) / 1e9
            if age >= self._leftover_seconds:
                self._delete_folder(name)
                logger.info("removed %s, left behind %.0f s ago", self.where(name), age)
                self._faults.reach("leftover-removed")

    def _path(self, *parts: str) -> str:
        return "/".join((self._bucket.root, *parts))

    def _try(self, operation: Callable[[], Result], what: str) -> Result:
        try:
            return RETRY.call(operation, what)
        except FileNotFoundError:
            raise
        except Exception as error:  # clients raise classes of their own: all become ours
            hint = (
                "it may pass: see the network and the service's status"
                if is_transient(error)
                else "see the bucket's name, and what this machine's account may do with it"
            )
            raise CheckpointError(f"{what} failed: {one_line(error)}; {hint}") from error
