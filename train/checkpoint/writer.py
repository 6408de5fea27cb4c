"""Saving beside training: a step waits while its tensors are copied, not while they are written."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Mapping
from typing import Protocol

import torch

from ironcliw.errors import DeadlineExceededError
from train.checkpoint.interval import SaveCost
from train.checkpoint.manifest import Manifest
from train.checkpoint.snapshot import Snapshot

logger = logging.getLogger(__name__)


class Commits(Protocol):
    """Where snapshots are committed: `store.CheckpointStore`, or one that several workers share."""

    @property
    def uri(self) -> str: ...

    def commit(self, snapshot: Snapshot) -> Manifest: ...


class AsyncWriter:
    """One thread that commits snapshots, one at a time.

    A snapshot that comes while one is written waits for it. To skip it, or the one before, would
    spare that wait and let the newest durable step fall behind without bound where storage is slow;
    so at most one interval and the steps done during one save can be lost. The wait is part of the
    measured cost, from which the interval is chosen: slow storage is saved to less often.

    The copies are kept and used again, so each save after the first allocates nothing. Used by one
    thread, which is not the writer's.

    Args:
        store: Where to.
    """

    def __init__(self, store: Commits) -> None:
        self._store = store
        self._buffers: dict[str, torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._newest: Manifest | None = None
        self._blocking = 0.0
        self._cost: SaveCost | None = None

    def submit(self, snapshot: Snapshot) -> float:
        """Copy a snapshot's tensors and write it in the background.

        Returns:
            Seconds that the caller was kept waiting.

        Raises:
            CheckpointError: the snapshot before this one could not be written. This one was not
                taken; submit it again to go on in spite of it.
        """
        begun = time.perf_counter()
        self._join(None)
        tensors = self._copied(snapshot.tensors)
        # on a GPU the copies are in its queue by now; the thread waits for them, not the step
        event = _copied_event(snapshot.tensors)
        state = copy.deepcopy(dict(snapshot.state))
        copied = Snapshot(snapshot.step, tensors, state, snapshot.fingerprint)
        self._blocking = time.perf_counter() - begun
        # a daemon: storage that hangs must not keep a process alive that has to leave
        self._thread = threading.Thread(
            target=self._write, args=(copied, event, begun), name="checkpoint-writer", daemon=True
        )
        self._thread.start()
        return self._blocking

    def wait(self, timeout: float | None = None) -> Manifest | None:
        """Wait until what was submitted is durable.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Returns:
            The newest durable checkpoint of this writer; None where nothing was submitted.

        Raises:
            CheckpointError: it could not be written.
            DeadlineExceededError: it is not durable yet; it is still being written.
        """
        self._join(timeout)
        return self._newest

    def stop(self, timeout: float | None = None) -> Manifest | None:
        """`wait`, and give the copies' memory back."""
        newest = self.wait(timeout)
        self._buffers.clear()
        return newest

    @property
    def newest(self) -> Manifest | None:
        """The newest durable checkpoint of this writer, without waiting; None: none is yet."""
        return self._newest

    @property
    def cost(self) -> SaveCost | None:
        """Of the newest durable checkpoint, for `interval.choose_interval`."""
        return self._cost

    def _join(self, timeout: float | None) -> None:
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise DeadlineExceededError(
                    f"the checkpoint for {self._store.uri} is not durable after {timeout} s; wait "
                    "longer, or lose the steps since the one before"
                )
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _copied(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in self._buffers.keys() - tensors.keys():
            del self._buffers[name]
        for name, tensor in tensors.items():
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                # page-locked, so that a GPU copies without the processor
                buffer = torch.empty(
                    tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda"
                )
                self._buffers[name] = buffer
            buffer.copy_(tensor.detach(), non_blocking=True)
        return dict(self._buffers)

    def _write(self, snapshot: Snapshot, event: torch.cuda.Event | None, begun: float) -> None:
        try:
            if event is not None:
                event.synchronize()
            manifest = self._store.commit(snapshot)
        except Exception as error:  # noqa: BLE001  # the thread's boundary: raised at the next call
            logger.error("step %d was not saved: %s", snapshot.step, error)
            self._error = error
        else:
            self._newest = manifest
            durable = time.perf_counter() - begun
            self._cost = SaveCost(self._blocking, durable, manifest.size_bytes)


def _copied_event(tensors: Mapping[str, torch.Tensor]) -> torch.cuda.Event | None:
    kinds = {tensor.device.type for tensor in tensors.values()}
    if "mps" in kinds:
        torch.mps.synchronize()
    if "cuda" not in kinds:
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event
