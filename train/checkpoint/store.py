"""The checkpoints of one run, in a folder or a bucket."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from ironcliw.errors import CheckpointError, DamagedCheckpointError
from train.checkpoint.faults import Faults, NoFaults
from train.checkpoint.files import STATE, Part, decode_state, parts_of, read_tensors
from train.checkpoint.local import LocalFolder
from train.checkpoint.manifest import MANIFEST, FileEntry, Manifest
from train.checkpoint.names import new_name, newest_first, step_of
from train.checkpoint.snapshot import Checkpoint, Snapshot
from train.fingerprint import Fingerprint, check_resume

logger = logging.getLogger(__name__)

LEFTOVER_SECONDS = 6 * 3600.0
"""In a bucket, where nothing tells whether a writer lives, an unfinished save is kept so long."""
_READS = 5
"""How often the list is read again when another process removes what is being read."""


class Backend(Protocol):
    """Where the files are: `local.LocalFolder` or `remote.RemoteFolder`."""

    def where(self, name: str = "", file: str = "") -> str:
        """Of a checkpoint or of a file of it, for messages."""

    def open(self) -> None:
        """See that it can be written; remove what killed saves left behind."""

    def folders(self) -> list[str]:
        """Names of all that may be committed checkpoints."""

    def read(self, name: str, file: str) -> bytes:
        """A file of a checkpoint; FileNotFoundError where it is not there."""

    def write(
        self, name: str, parts: Sequence[Part], seal: Callable[[list[FileEntry]], bytes]
    ) -> None:
        """Write and commit a checkpoint."""

    def prepared(self, name: str, size_bytes: int) -> AbstractContextManager[None]:
        """Where files of a checkpoint are written before they are committed."""

    def write_part(self, name: str, part: Part) -> FileEntry:
        """Write one of them."""

    def commit(self, name: str, manifest: bytes) -> None:
        """Make a checkpoint of them."""

    def remove(self, name: str) -> None:
        """Remove a checkpoint, whole for whoever lists them."""


class CheckpointStore:
    """Commits snapshots and finds the newest whole one; any number of processes may read.

    A second writer, such as a worker that everybody took for dead, does no harm: each save has a
    folder of its own.

    Args:
        uri: A folder, or `s3://`, `gs://` or another URI that fsspec knows.
        keep: Checkpoints kept, 2 at least.
        faults: What happens at the places of a commit; for tests.
        read_only: Write nothing, not even to remove what killed saves left behind.
        leftover_seconds: Age from which an unfinished save in a bucket is removed.

    Raises:
        ValueError: `keep` is below 2.
        CheckpointError: the storage cannot be reached or written.
    """

    def __init__(
        self,
        uri: str | Path,
        keep: int = 2,
        faults: Faults | None = None,
        *,
        read_only: bool = False,
        leftover_seconds: float = LEFTOVER_SECONDS,
    ) -> None:
        if keep < 2:
            raise ValueError(f"keep is {keep}; give 2 or more, should the newest be damaged")
        self.keep = keep
        self.uri: str = str(uri)
        self.backend: Backend = _backend(self.uri, faults or NoFaults(), leftover_seconds)
        self._damaged: set[str] = set()
        """Names of checkpoints that are no reason to remove an older one."""
        if not read_only:
            self.backend.open()

    def __repr__(self) -> str:
        return f"CheckpointStore({self.backend.where()!r}, keep={self.keep})"

    def commit(self, snapshot: Snapshot) -> Manifest:
        """Write a snapshot; when this returns, it is durable. Older ones are then removed.

        Raises:
            CheckpointError: it could not be written; the checkpoints before it are as they were.
        """
        sealed: list[Manifest] = []

        def seal(files: list[FileEntry]) -> bytes:
            created = datetime.now(UTC).isoformat(timespec="milliseconds")
            manifest = Manifest(snapshot.step, tuple(files), snapshot.fingerprint, created)
            sealed.append(manifest)
            return manifest.encode()

        name = new_name(snapshot.step)
        self.backend.write(name, parts_of(snapshot), seal)
        self.remove_old(spare=name)
        return sealed[-1]

    def newest(
        self, fingerprint: Fingerprint | None = None, *, allow_inexact: bool = False
    ) -> Checkpoint | None:
        """The newest whole checkpoint; None where there is none at all.

        Every byte is compared with the manifest. One that is damaged is told in the log, and the
        one before it is used.

        Args:
            fingerprint: Of the run that wants to go on; None to read without going on.
            allow_inexact: Go on though the bits will differ; `Checkpoint.inexact` tells why.

        Raises:
            DamagedCheckpointError: there are checkpoints, and none is whole.
            OtherModelError: it is of another model.
            InexactResumeError: going on gives other bits, and that is not allowed.
            NewerFormatError: a newer release wrote it.
            CheckpointError: the storage cannot be read.
        """
        for _ in range(_READS):
            try:
                return self._newest(fingerprint, allow_inexact)
            except VanishedError:
                continue
        raise CheckpointError(
            f"checkpoints in {self.backend.where()} were removed {_READS} times while they were "
            "read; see which process writes there"
        )

    def all(self) -> list[Manifest]:
        """Manifests of all checkpoints, newest first; their files are not compared.

        Raises:
            NewerFormatError: a newer release wrote one.
            CheckpointError: the storage cannot be read.
        """
        manifests = []
        for name in self.names():
            try:
                manifests.append(self.manifest(name))
            except VanishedError:
                continue
            except DamagedCheckpointError as error:
                logger.error("%s", error)
        return manifests

    def _newest(self, fingerprint: Fingerprint | None, allow_inexact: bool) -> Checkpoint | None:
        problems = []
        for name in self.names():
            try:
                return self._load(name, fingerprint, allow_inexact)
            except DamagedCheckpointError as error:
                self._damaged.add(name)
                problems.append(error.message)
                logger.error("DAMAGED CHECKPOINT: %s. The one before it is used.", error)
        if not problems:
            return None
        raise DamagedCheckpointError(
            f"none of the {len(problems)} checkpoints in {self.backend.where()} is whole: "
            f"{'; '.join(problems)}. Restore one of them, or name another folder to start anew"
        )

    def _load(
        self, name: str, fingerprint: Fingerprint | None, allow_inexact: bool
    ) -> Checkpoint | None:
        manifest, location = self.manifest(name), self.backend.where(name)
        inexact: tuple[str, ...] = ()
        if fingerprint is not None:
            inexact = check_resume(manifest.fingerprint, fingerprint, location, allow_inexact)
        files = {file.name: self.verified(name, file) for file in manifest.files}
        if STATE not in files:
            raise DamagedCheckpointError(f"the manifest of {location} lists no {STATE}")
        state = decode_state(files.pop(STATE), self.backend.where(name, STATE))
        tensors = {}
        for file in [*files]:
            tensors.update(read_tensors(files.pop(file), self.backend.where(name, file)))
        if inexact:
            logger.warning("INEXACT RESUME from %s: %s", location, "; ".join(inexact))
        return Checkpoint(manifest.step, tensors, state, manifest, location, inexact)

    def manifest(self, name: str) -> Manifest:
        """Of a checkpoint.

        Raises:
            DamagedCheckpointError: it is none.
            NewerFormatError: a newer release wrote it.
        """
        location = self.backend.where(name, MANIFEST)
        try:
            raw = self.backend.read(name, MANIFEST)
        except FileNotFoundError:
            if name not in self.backend.folders():
                raise VanishedError from None
            raise DamagedCheckpointError(f"{location} is missing") from None
        manifest = Manifest.decode(raw, location)
        if manifest.step != step_of(name):
            raise DamagedCheckpointError(f"{location} is of step {manifest.step}: it was moved")
        return manifest

    def verified(self, name: str, file: FileEntry) -> bytes:
        """The bytes of a file of a checkpoint, which are those that its manifest tells of.

        Raises:
            DamagedCheckpointError: they are not.
        """
        location = self.backend.where(name, file.name)
        try:
            raw = self.backend.read(name, file.name)
        except FileNotFoundError:
            if name not in self.backend.folders():
                raise VanishedError from None
            raise DamagedCheckpointError(f"{location} is missing") from None
        found = hashlib.sha256(raw).hexdigest()
        if found != file.sha256:
            raise DamagedCheckpointError(
                f"{location} is damaged: expected {file.size_bytes} bytes with sha256 "
                f"{file.sha256}, found {len(raw)} bytes with sha256 {found}"
            )
        return raw

    def remove_old(self, spare: str) -> None:
        """Remove all but the newest `keep` that are not known to be damaged, and never `spare`."""
        good = 0
        try:
            for name in self.names():
                if good >= self.keep and name != spare:
                    self.backend.remove(name)
                good += name not in self._damaged
        except CheckpointError as error:
            # the new checkpoint is durable, so training goes on; the next commit tries again
            logger.warning("old checkpoints were not removed: %s", error)

    def mark_damaged(self, name: str) -> None:
        """Let an older checkpoint be kept instead of this one."""
        self._damaged.add(name)

    def names(self) -> list[str]:
        """Of all that may be committed checkpoints, newest first."""
        return newest_first(self.backend.folders())


class VanishedError(Exception):
    """Another process removed the checkpoint that is being read."""


def _backend(uri: str, faults: Faults, leftover_seconds: float) -> Backend:
    if "://" not in uri:
        return LocalFolder(Path(uri).expanduser(), faults)
    if uri.startswith("file://"):
        return LocalFolder(Path(unquote(urlsplit(uri).path)), faults)
    from train.checkpoint.remote import RemoteFolder

    return RemoteFolder(uri, faults, leftover_seconds)
