"""A chain of lines in which no change goes unseen."""

from __future__ import annotations

import json
import math

import pytest

from train.loop.log import START, RunLog, check


def make(lines: int = 5) -> RunLog:
    log = RunLog()
    for step in range(lines):
        log.add(step=step, loss=1 / (step + 3), rows=[step, 7])
    return log


def test_a_float_has_its_bits() -> None:
    line = RunLog().add(loss=0.1, step=1)
    assert float.fromhex(line["loss_hex"]) == 0.1
    assert "step_hex" not in line


def test_a_log_goes_on_as_if_never_closed() -> None:
    whole, first = make(), make(2)
    assert RunLog(first.text).chain == first.chain
    second = RunLog(first.text)
    for step in range(2, 5):
        second.add(step=step, loss=1 / (step + 3), rows=[step, 7])
    assert second.text == whole.text
    assert second.chain == whole.chain
    assert [line["step"] for line in second.lines()] == [0, 1, 2, 3, 4]


def test_a_whole_log_is_whole() -> None:
    assert check(make().text) == 5
    assert check("") == 0
    assert RunLog().chain == START
    odd = RunLog()
    odd.add(event="evaluation", eval_loss=math.nan, perplexity=math.inf)
    assert check(odd.text) == 1


@pytest.mark.parametrize("changed", range(5))
@pytest.mark.parametrize("key", ["loss", "loss_hex", "step", "rows", "chain"])
def test_a_changed_line_is_found(changed: int, key: str) -> None:
    lines = make().lines()
    lines[changed][key] = {"rows": [9], "loss_hex": (0.5).hex(), "chain": "0" * 64}.get(key, 99)
    assert check("".join(f"{json.dumps(line)}\n" for line in lines)) == changed


def test_lines_that_are_gone_added_or_elsewhere_are_found() -> None:
    lines = make().text.splitlines()
    assert check("\n".join([*lines[:2], *lines[3:]])) == 2
    assert check("\n".join([lines[1], lines[0], *lines[2:]])) == 0
    assert check("\n".join([*lines, lines[-1]])) == 5
    assert check("\n".join([lines[0], lines[0]])) == 1


@pytest.mark.parametrize("line", ['{"step": 3', "", "[]", "{}", '"chain"', "3"])
def test_what_is_no_line_is_where_it_ends(line: str) -> None:
    lines = make().text.splitlines()
    assert check("\n".join([*lines[:3], line, *lines[4:]])) == 3
