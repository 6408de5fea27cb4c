"""Log lines as text and as JSON."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from ironcliw.logs import PACKAGES, configure
from ironcliw.setting_sections import LogSettings


@pytest.fixture(autouse=True)
def restored_loggers() -> Iterator[None]:
    """Our loggers as they were: other tests read them by pytest's own handler."""
    before = {name: _state(logging.getLogger(name)) for name in PACKAGES}
    yield
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def _state(logger: logging.Logger) -> tuple[list[logging.Handler], int, bool]:
    return list(logger.handlers), logger.level, logger.propagate


def test_text_lines_carry_the_fields() -> None:
    stream = io.StringIO()
    configure(LogSettings.model_validate({}), stream)
    logging.getLogger("serve.batcher").info("batch of %s", 3, extra={"tokens": 41})
    line = stream.getvalue()
    assert re.fullmatch(r"\d{4}-.+T.+\.\d{3}Z INFO serve\.batcher: batch of 3 tokens=41\n", line)


def test_json_lines_carry_the_fields_and_the_traceback() -> None:
    stream = io.StringIO()
    configure(LogSettings.model_validate({"format": "json"}), stream)
    logger = logging.getLogger("cluster.head.lifecycle")
    try:
        raise ValueError("broken\nin two lines")
    except ValueError:
        logger.exception("stopped", extra={"port": 8000, "odd": {1}})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert (record["level"], record["logger"]) == ("ERROR", "cluster.head.lifecycle")
    assert (record["message"], record["port"], record["odd"]) == ("stopped", 8000, "{1}")
    assert record["exception"].startswith("Traceback")


def test_the_threshold_holds() -> None:
    stream = io.StringIO()
    configure(LogSettings.model_validate({"level": "WARNING"}), stream)
    logging.getLogger("serve").info("too quiet")
    assert stream.getvalue() == ""


def test_the_second_set_up_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure(LogSettings.model_validate({}), first)
    configure(LogSettings.model_validate({}), second)
    logging.getLogger("serve.app").warning("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_other_programs_loggers_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    configure(LogSettings.model_validate({}), stream)
    logging.getLogger("somebody.else").warning("theirs")
    assert stream.getvalue() == ""
    assert "theirs" in caplog.text
