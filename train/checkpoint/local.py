"""Checkpoints in a folder: written aside in the same file system, committed by a rename.

    ROOT/step-00000012-<attempt>/            whole; the manifest in it lists and hashes its files
    ROOT/.partial-step-00000013-<attempt>/   being written, or left by a save that was killed
    ROOT/.old-step-00000010-<attempt>/       being removed

Each file is fsynced, then the folder, and only then it is renamed; a power cut leaves the old state
or the new. A writer holds a lock (flock) on its partial folder, which the system releases when the
process dies: that tells a leftover from the work of another process.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ironcliw.durable import sync, sync_handle
from ironcliw.errors import CheckpointError, DamagedCheckpointError
from train.checkpoint.disk import made_and_locked, reason, remove_if_abandoned
from train.checkpoint.faults import Faults
from train.checkpoint.files import Part
from train.checkpoint.manifest import MANIFEST, FileEntry

logger = logging.getLogger(__name__)

_PARTIAL, _OLD = ".partial-", ".old-"


class LocalFolder:
    """Files of checkpoints below one folder.

    Args:
        root: The folder.
        faults: What happens at the places of `faults.LOCAL_POINTS`.
    """

    def __init__(self, root: Path, faults: Faults) -> None:
        self._root = root.absolute()
        self._faults = faults
        self._identity: tuple[int, int] | None = None

    def where(self, name: str = "", file: str = "") -> str:
        """Of a checkpoint or of a file of it, for messages."""
        return str(self._root / name / file)

    def open(self) -> None:
        """Make the folder, see that it can be written, remove what killed saves left behind.

        Raises:
            CheckpointError: the folder cannot be made or written.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._root):
                pass
            self._identity = self._identify()
            self._remove_leftovers()
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self._root}: {reason(error)}"
            ) from error

    def folders(self) -> list[str]:
        """Names of all that may be committed checkpoints.

        Raises:
            CheckpointError: the folder cannot be read.
        """
        try:
            return [entry.name for entry in os.scandir(self._root) if entry.is_dir()]
        except FileNotFoundError:
            if self._identity is None:
                return []
            raise self._vanished() from None
        except OSError as error:
            raise CheckpointError(
                f"checkpoints in {self._root} cannot be listed: {reason(error)}"
            ) from error

    def read(self, name: str, file: str) -> bytes:
        """A file of a checkpoint.

        Raises:
            FileNotFoundError: it is not there.
            DamagedCheckpointError: the disk cannot read it any more.
            CheckpointError: it may not be read.
        """
        path = self._root / name / file
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(str(path)) from None
        except OSError as error:
            kind = DamagedCheckpointError if error.errno == errno.EIO else CheckpointError
            raise kind(f"{path} cannot be read: {reason(error)}") from error

    def write(
        self, name: str, parts: Sequence[Part], seal: Callable[[list[FileEntry]], bytes]
    ) -> None:
        """Write and commit a checkpoint.

        Args:
            name: Its folder's.
            parts: Its files.
            seal: Gives the manifest's bytes from the files that were written.

        Raises:
            CheckpointError: it could not be written; what was begun is removed.
        """
        with self.prepared(name, sum(part.size_bytes for part in parts)):
            self.commit(name, seal([self.write_part(name, part) for part in parts]))

    @contextmanager
    def prepared(self, name: str, size_bytes: int) -> Iterator[None]:
        """A folder aside for a checkpoint's files, while the block runs; it must commit them.

        Args:
            name: Of the checkpoint.
            size_bytes: Of its files, for the message.

        Raises:
            CheckpointError: it could not be written; what was begun is removed.
        """
        partial, reach = self._partial(name), self._faults.reach
        try:
            reach("begun")
            self._check_folder()
            with made_and_locked(partial):
                reach("partial-folder-made")
                yield
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"checkpoint {name}, {size_bytes / 1e6:.1f} MB, could not be written to "
                f"{self._root}: {reason(error)}; the checkpoints before it are as they were"
            ) from error
        except CheckpointError:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def write_part(self, name: str, part: Part) -> FileEntry:
        """Write a file of a checkpoint that is prepared, by this process or another one.

        Raises:
            OSError: it could not be written.
        """
        digest = self._write_file(self._partial(name) / part.name, part.blocks(), "file")
        return FileEntry(part.name, part.size_bytes, digest)

    def commit(self, name: str, manifest: bytes) -> None:
        """Make a checkpoint of the files that were written.

        Raises:
            OSError: it could not be written.
        """
        partial, reach = self._partial(name), self._faults.reach
        self._write_file(partial / MANIFEST, [memoryview(manifest)], "manifest")
        sync(partial)
        reach("partial-folder-fsynced")
        partial.rename(self._root / name)
        reach("renamed")
        sync(self._root)
        reach("root-fsynced")

    def remove(self, name: str) -> None:
        """Remove a checkpoint, whole for whoever lists the folder.

        Raises:
            CheckpointError: it cannot be removed.
        """
        old = self._root / f"{_OLD}{name}"
        try:
            (self._root / name).rename(old)
            self._faults.reach("old-renamed")
            shutil.rmtree(old)
            self._faults.reach("old-removed")
        except FileNotFoundError:
            pass  # another process was faster
        except OSError as error:
            raise CheckpointError(f"{old} cannot be removed: {reason(error)}") from error

    def _partial(self, name: str) -> Path:
        return self._root / f"{_PARTIAL}{name}"

    def _write_file(self, path: Path, blocks: Iterable[memoryview], kind: str) -> str:
        """Write and fsync; the SHA-256 of what was written."""
        digest = hashlib.sha256()
        # unbuffered: a block goes from the tensor to the system without a copy in between
        with path.open("xb", buffering=0) as file:
            for block in blocks:
                written = 0
                while written < block.nbytes:
                    written += file.write(block[written:]) or 0
                digest.update(block)
                self._faults.reach("block-written")
            self._faults.reach(f"{kind}-written")
            sync_handle(file.fileno())
        self._faults.reach(f"{kind}-fsynced")
        return digest.hexdigest()

    def _remove_leftovers(self) -> None:
        for entry in [*os.scandir(self._root)]:
            path = Path(entry.path)
            if entry.name.startswith(_OLD):
                shutil.rmtree(path, ignore_errors=True)
            elif not entry.name.startswith(_PARTIAL) or not remove_if_abandoned(path):
                continue
            logger.info("removed %s, which a process that died left behind", path)
            self._faults.reach("leftover-removed")

    def _identify(self) -> tuple[int, int]:
        status = self._root.stat()
        return status.st_dev, status.st_ino

    def _check_folder(self) -> None:
        """A disk that was unmounted leaves an empty folder behind, which must not be filled."""
        try:
            same = self._identity in (None, self._identify())
        except FileNotFoundError:
            same = False
        if not same:
            raise self._vanished()

    def _vanished(self) -> CheckpointError:
        return CheckpointError(
            f"the folder {self._root} has vanished, or is another one, since the run began; mount "
            "the disk again, or move the folder back"
        )
