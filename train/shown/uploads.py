"""Copies of a growing file, made beside the work that lets it grow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ironcliw.errors import CheckpointError

logger = logging.getLogger(__name__)


class Uploads:
    """A thread that uploads again and again, while something new is there.

    An upload that fails is told of and tried again with the next one: who looks on sees an older
    state meanwhile, and the work goes on.

    Args:
        upload: Makes one; called in the thread.
        seconds: From the end of one to the beginning of the next, at the least.
    """

    def __init__(self, upload: Callable[[], None], seconds: float) -> None:
        self._upload = upload
        self._seconds = seconds
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def wanted(self) -> None:
        """There is something new; returns at once."""
        self._wanted.set()
        if self._thread is None:
            # a daemon: storage that hangs must not keep a process alive that has to leave
            self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)
            self._thread.start()

    def end(self, seconds: float | None = None) -> None:
        """No upload begins any more.

        Args:
            seconds: To wait for the one that is under way; None: until it is over.
        """
        self._ended.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while self._wanted.wait() and not self._ended.is_set():
            self._wanted.clear()
            try:
                self._upload()
            except (CheckpointError, OSError) as error:
                # of the bucket, or of the file here
                logger.warning("the curves are not up to date: %s", error)
            self._ended.wait(self._seconds)
