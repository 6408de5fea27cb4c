"""Log lines as text and as JSON."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest

from ironcliw.logs import PACKAGES, configure
from ironcliw.setting_sections import LogSettings


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


def test_what_ray_adds_to_records_is_no_field() -> None:
    stream = io.StringIO()
    configure(LogSettings.model_validate({}), stream)
    extra = {"_ray_something": 5, "tokens": 41}
    logging.getLogger("serve").info("batch", extra=extra)
    assert stream.getvalue().endswith("serve: batch tokens=41\n")


@pytest.mark.parametrize("turn", ["first", "second"])
def test_a_command_s_handler_does_not_outlive_its_test(turn: str) -> None:
    """It may write to a stream that is closed by then."""
    for name in PACKAGES:
        logger = logging.getLogger(name)
        assert [type(handler).__name__ for handler in logger.handlers] == []
        assert (logger.level, logger.propagate) == (logging.NOTSET, True)
    configure(LogSettings.model_validate({}), io.StringIO())
