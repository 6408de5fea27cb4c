"""A checkpoint that several workers write: each its own file, the first commits all of them.

The protocol is that of one writer (see `local` and `remote`): files written aside, fsynced and
hashed, the manifest last. The workers meet three times, in the thread that writes: when the folder
is there, when all files are durable, and when the manifest is. A failure of one is the failure of
all, and the checkpoints before it are as they were.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from ironcliw.errors import CheckpointError, DamagedCheckpointError
from ironcliw.retries import is_transient
from train.checkpoint.files import STATE, parts_of
from train.checkpoint.manifest import FileEntry, Manifest
from train.checkpoint.names import new_name
from train.checkpoint.snapshot import Checkpoint, Snapshot
from train.checkpoint.store import CheckpointStore

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Meeting(Protocol):
    """Workers that tell each other small things."""

    rank: int
    size: int

    def exchange(self, value: Any) -> Sequence[Any]:
        """What each worker says, in the order of their ranks; where one is gone an error that is
        no `CheckpointError`, since another attempt may succeed."""
        ...


class SharedStore:
    """Commits and reads the snapshots of one run, one worker's pieces among them.

    Each worker has one. The tensors of a worker's snapshot must be in files that no other worker's
    are in; the state is the first worker's.

    Args:
        store: Of the run; read only on all workers but the first.
        meeting: Of the threads that write.
    """

    def __init__(self, store: CheckpointStore, meeting: Meeting) -> None:
        self._store = store
        self._meeting = meeting

    @property
    def uri(self) -> str:
        """Of the run's checkpoints."""
        return self._store.uri

    def commit(self, snapshot: Snapshot) -> Manifest:
        """Write this worker's part; when this returns, the checkpoint is durable, on all workers.

        Raises:
            CheckpointError: a worker could not write its part.
        """
        is_first, backend = self._meeting.rank == 0, self._store.backend
        parts = [each for each in parts_of(snapshot) if is_first or each.name != STATE]
        name = str(self._meeting.exchange(new_name(snapshot.step) if is_first else None)[0])

        def write() -> list[FileEntry]:
            return [backend.write_part(name, part) for part in parts]

        with contextlib.ExitStack() as stack:
            size = sum(part.size_bytes for part in parts)
            prepared = backend.prepared(name, size)
            self._stage(lambda: stack.enter_context(prepared) if is_first else None)
            files = tuple(file for each in self._stage(write) for file in each or ())
            created = datetime.now(UTC).isoformat(timespec="milliseconds")
            manifest = Manifest(snapshot.step, files, snapshot.fingerprint, created)
            self._stage(lambda: backend.commit(name, manifest.encode()) if is_first else None)
        if is_first:
            self._store.remove_old(spare=name)
        return manifest

    def newest(self, load: Callable[[str], Checkpoint]) -> Checkpoint | None:
        """The newest checkpoint of which every worker's part is whole; None where there is none.

        Args:
            load: Reads this worker's part of a checkpoint, by its name.

        Raises:
            DamagedCheckpointError: there are checkpoints, and none is whole.
            CheckpointError: the storage cannot be read.
        """
        problems: list[str] = []
        for name in self._meeting.exchange(self._store.names())[0]:
            found, problem = None, None
            try:
                found = load(name)
            except DamagedCheckpointError as error:
                problem = error.message
            told = [each for each in self._meeting.exchange(problem) if each is not None]
            if not told:
                return found
            self._store.mark_damaged(name)
            problems += told
            for each in told:
                logger.error("DAMAGED CHECKPOINT: %s. The one before it is used.", each)
        if not problems:
            return None
        raise DamagedCheckpointError(
            f"no checkpoint in {self.uri} is whole: {'; '.join(problems)}. Restore one of them, or "
            "name another folder to start anew"
        )

    def _stage(self, operation: Callable[[], Result]) -> list[Result]:
        """Do something on all workers, or fail on all."""
        result: Any = None
        problem, passes = "", False
        try:
            result = operation()
        except (CheckpointError, OSError) as error:
            problem, passes = str(error), is_transient(error)
        # what comes of the first stage cannot be sent, and is not needed elsewhere
        sent = result if isinstance(result, list) else None
        told = self._meeting.exchange((problem, passes, sent))
        failed = [f"worker {rank}: {text}" for rank, (text, _, _) in enumerate(told) if text]
        if failed:
            # a cause cannot be sent, and whether it passes is told by it
            may_pass = all(passes for text, passes, _ in told if text)
            cause = ConnectionError("storage cannot be reached") if may_pass else None
            raise CheckpointError(f"a checkpoint was not written: {'; '.join(failed)}") from cause
        return [value for _, _, value in told]
