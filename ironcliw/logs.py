"""Logging set-up for the processes that own their logs: the command line and Serve's replicas.

Library modules only take `logging.getLogger(__name__)` and pass structured fields by `extra=`.
Our handler hangs on our own packages alone, so that neither Ray's loggers nor those of a program
that uses the client are touched.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from ironcliw.setting_sections import LogSettings

PACKAGES = ("actors", "benchmarks", "cluster", "ironcliw", "native_ops", "rl", "serve", "train")

# What every record has: the rest came by `extra=`. `message` and `asctime` are set by formatters.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class _OurHandler(logging.StreamHandler[TextIO]):
    """Marks the handlers that `configure` added, so that it can replace them."""


class TextFormatter(logging.Formatter):
    """`2025-01-31T10:00:00.000Z INFO serve.app: message key=value`, tracebacks below."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as a line, and its traceback on the lines after it."""
        fields = "".join(f" {name}={value}" for name, value in extra_fields(record).items())
        head = f"{_timestamp(record)} {record.levelname} {record.name}: "
        lines = [head + record.getMessage() + fields]
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, extra fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as one line of JSON, whatever its message contains."""
        document = {
            **extra_fields(record),
            "time": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def configure(log: LogSettings, stream: TextIO | None = None) -> None:
    """Send the logs of our packages to a stream. Calling it again replaces the earlier set-up.

    Args:
        log: Threshold and format.
        stream: Where to write; None: standard error.
    """
    handler = _OurHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if log.format == "json" else TextFormatter())
    for name in PACKAGES:
        logger = logging.getLogger(name)
        for old in [one for one in logger.handlers if isinstance(one, _OurHandler)]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(log.level)
        # else a root handler of the host program would write each line twice
        logger.propagate = False


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """The structured fields that a call gave by `extra=`; Ray adds `_ray_...` to every record."""
    return {
        name: value
        for name, value in record.__dict__.items()
        if name not in _STANDARD and not name.startswith("_")
    }


def _timestamp(record: logging.LogRecord) -> str:
    """RFC 3339 in UTC with milliseconds."""
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
