"""A run's curves for TensorBoard: one event file, whose bytes depend on the log alone.

TensorBoard wants a time of each event. The log has none, so an event's time is its step, in
seconds since 1970: its axis of steps is right, that of wall time is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from train.shown.curves import Point, points

FOLDER = "tensorboard"
NAME = "events.out.tfevents.0000000000.ironcliw"


class EventFile:
    """Begun anew with what a log has, and appended to.

    Args:
        folder: Of the file; made if it is not there.
        lines: Of the log so far.
    """

    def __init__(self, folder: Path, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        self._event = event_pb2.Event
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self.path.unlink(missing_ok=True)
        self._writer = RecordWriter(str(self.path))
        self._put(self._event(wall_time=0.0, file_version="brain.Event:2"))
        self.add(lines)

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append the curves of some lines of the log; readers see them at once."""
        for point in points(lines):
            self._put(self._of(point))
        self._writer.flush()

    def close(self) -> None:
        """Nothing can be added afterwards."""
        self._writer.close()

    def _of(self, point: Point) -> Any:
        from tensorboardX.summary import scalar

        return self._event(
            wall_time=float(point.step),
            step=point.step,
            summary=scalar(point.curve, point.value),
        )

    def _put(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
