"""What one looks at while a run goes on and afterwards: event files and a plot, beside its log."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ironcliw.buckets import shown
from ironcliw.errors import CheckpointError
from train.run_files import RunFiles
from train.shown import event_file, plot
from train.shown.event_file import EventFile
from train.shown.uploads import Uploads

logger = logging.getLogger(__name__)

UPLOAD_SECONDS = 30.0
"""Between two copies of a growing event file to a bucket, at the least."""
_PATIENCE_SECONDS = 5.0
"""For a copy that is under way at the end of an attempt: the machine may be about to end, too."""


class Recorder:
    """Of a run's first worker. In a folder the event file grows with every step, in a bucket every
    half a minute.

    Args:
        files: Of the run.
        listen: Called with each line of the log; those from before a resume come first.
        upload_seconds: Between two copies to a bucket, at the least.
    """

    def __init__(
        self,
        files: RunFiles,
        listen: Callable[[Mapping[str, Any]], None] = lambda line: None,
        upload_seconds: float = UPLOAD_SECONDS,
    ) -> None:
        self._files = files
        self._listen = listen
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._uploads: Uploads | None = None
        if files.is_local:
            path = unquote(urlsplit(files.uri).path) if "://" in files.uri else files.uri
            self._folder = Path(path).expanduser()
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="ironcliw-curves-")
            self._folder = Path(self._temporary.name)
            self._uploads = Uploads(self._upload_events, upload_seconds)
        self._events: EventFile | None = None

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the event file anew, with what the log has already."""
        for line in lines:
            self._listen(line)
        try:
            self._events = EventFile(self._folder / event_file.FOLDER, lines)
        except OSError as error:
            self._stop(error)

    def add(self, line: Mapping[str, Any]) -> None:
        """A line that the log got."""
        try:
            if self._events is not None:
                self._events.add([line])
                if self._uploads is not None:
                    self._uploads.wanted()
        except OSError as error:
            self._stop(error)
        self._listen(line)

    def finish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Draw the plot, and put everything beside the result.

        A failure is told in the log: a result is not given up for a picture of it.
        """
        title = shown(self._files.uri).rpartition("/")[2]
        picture, is_drawn = self._folder / plot.NAME, False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            plot.draw(lines, title, picture)
            is_drawn = True
        except OSError as error:
            self._stop(error)
        if self._uploads is None:
            return
        # or an older copy that is still under way would come last
        self._uploads.end()
        try:
            self._upload_events()
            if is_drawn:
                self._files.upload_file(picture, plot.NAME)
        except (CheckpointError, OSError) as error:
            logger.warning("the curves are not with the result: %s", error)

    def close(self) -> None:
        """At the end of an attempt, however it ends."""
        if self._uploads is not None:
            self._uploads.end(_PATIENCE_SECONDS)
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._temporary is not None:
            self._temporary.cleanup()

    def _upload_events(self) -> None:
        """The whole file, as it is now: an object cannot be appended to."""
        file = self._folder / event_file.FOLDER / event_file.NAME
        if file.is_file():
            self._files.write_bytes(f"{event_file.FOLDER}/{event_file.NAME}", file.read_bytes())

    def _stop(self, error: OSError) -> None:
        """Curves are for looking at, and the log has them all: the run goes on."""
        logger.warning("the curves in %s are not written any further: %s", self._folder, error)
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(OSError):
                events.close()
