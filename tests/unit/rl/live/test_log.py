"""The log as lines of JSON, and what is refused of a damaged one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from ironcliw.errors import DataError
from rl.live.log import Log, lines_of, parse_log, read_log
from tests.unit.rl.live.logs import BEGIN, DAY, decision_of, log_of

LOG = log_of(2)
LINES = list(lines_of(LOG))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join([*LINES, "", ""]), encoding="utf-8")
    assert read_log(path) == LOG
    assert json.loads(LINES[0]) == {"row": "log", "format": 1}


def test_a_row_of_an_earlier_release_is_read() -> None:
    row = json.loads(LINES[1])
    for name in ("details", "outcome", "features"):
        del row[name]
    [decision] = parse_log([json.dumps(row)], "x").decisions
    assert (decision.details, decision.outcome) == (None, None)


def test_what_is_newer_than_a_time() -> None:
    assert len(LOG.since(BEGIN + DAY).workflows) == 12
    assert LOG.since(BEGIN + DAY).fleet == LOG.fleet


def changed(index: int, **fields: object) -> str:
    return json.dumps({**json.loads(LINES[index]), **fields})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"decision log x is empty; run some workflows with routing first"),
        (["", " "], r"decision log x is empty"),
        (["{"], r"x:1 is damaged: Expecting property name"),
        ([LINES[0], LINES[1][:40]], r"x:2 is damaged: .*; write the log again by `ironcliw route"),
        (["[1, 2]"], r"x:1 is no row: '\[1, 2\]'; each line is one object of JSON"),
        (['{"row": "poem"}'], r"x:1 is no row of a decision log: a row of the kind 'poem'"),
        (['{"row": "log", "format": 9}'], r"x:1 .*format 9; this release reads 1"),
        ([changed(1, at=None)], r"x:1 .*at is None, which is no number from 0"),
        ([LINES[1].replace('"at":1800000000.0', '"at":NaN')], r"x:1 is damaged: it holds NaN"),
        ([changed(1, propensity=0)], r"x:1 .*propensity 0 is no probability above 0"),
        ([changed(1, chosen=5)], r"x:1 .*option 5 of 2, masks 2"),
        ([changed(1, mask=[True])], r"x:1 .*option 0 of 2, masks 1"),
        (['{"row": "decision"}'], r"x:1 is no row of a decision log: no field 'options'"),
        ([changed(4, steps=[{"name": "a"}])], r"x:1 is no row of a decision log: no field 'needs'"),
        ([changed(4, created_at="yesterday")], r"x:1 .*created_at is 'yesterday'"),
        ([changed(4, priority=7)], r"x:1 .*priority is 7; it is 0 for critical to 3 for low"),
        ([changed(4, priority=True)], r"x:1 .*priority is True; it is 0 for critical"),
        ([changed(4, finished_at="soon")], r"x:1 .*finished_at is 'soon', which is no number"),
        ([changed(4, deadline=-1)], r"x:1 .*deadline is -1, which is no number from 0"),
        ([changed(4, deadline=5.0).replace("5.0", "1e400")],
         r"x:1 is damaged: it holds 1e400, which is no number"),
        ([changed(1, details={"schema": "ab", "by": "greedy", "costs": []})],
         r"x:1 .*details tell no chosen_by_policy, context, exploration, option_features, sh"),
        ([changed(1, details=[1])], r"x:1 .*details are \[1\], which is no object"),
        (['{"row":"fleet","intervals":[[2,1]],"losses":0,"boots":[],"price_per_hour":0}'],
         r"x:1 .*a machine ended before it began"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_told_with_its_line(lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_log(lines, "x")


def test_a_step_cannot_need_what_comes_after_it() -> None:
    row = json.loads(LINES[4])
    row["steps"][0]["needs"] = [1]
    with pytest.raises(DataError, match=r"step 0 needs \(1,\), which do not all come before it"):
        parse_log([json.dumps(row)], "x")
    row["steps"][0]["needs"], row["steps"][1]["seconds"] = [], -3.0
    with pytest.raises(DataError, match=r"seconds is -3.0, which is no number from 0"):
        parse_log([json.dumps(row)], "x")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "absent")
    path = tmp_path / "bytes"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is no UTF-8"):
        read_log(path)


def test_nothing_that_is_no_number_is_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        list(lines_of(Log((replace(decision_of(), at=math.nan),))))
