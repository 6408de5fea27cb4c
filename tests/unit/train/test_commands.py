"""`train data check`: the table, the mask, the problems and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ironcliw import console
from ironcliw.cli import main
from tests.unit.train.small_tokenizers import small
from train.data.check import ShownRow, facts, show_row, table
from train.data.masks import TokenRow
from train.data.options import DataOptions
from train.data.read import examine
from train.data.tokenized import TokenizedData

ROOT = Path(__file__).parents[3]
GOOD = {"question": "What is 2+2?", "answer": "It is 4."}
COLUMNS = ("--column", "prompt=question", "--column", "completion=answer")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [GOOD, GOOD | {"id": 1}, {"question": "Why?", "answer": "Because."}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "data", "check", *words])
    assert (caught.value.code or 0) == code


def test_the_table_and_the_mask(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(file), *COLUMNS)
    printed = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert f"{file}:2: the row is that of {file}:1 but for white space" in printed
    assert "(does not stop)" in printed
    assert "rows to train on 3" in lines
    assert "duplicates 1" in lines
    assert "key not read: id 1 rows" in lines
    assert "problems that stop a run 0" in lines
    assert "<|im_start|>assistant\n[[It is 4.<|im_end|>]]\n" in printed
    assert "\x1b" not in printed


def test_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(file), *COLUMNS, "--json", "--row", "2")
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["trained_on"], found["duplicates"]) == (3, 3, 1)
    assert found["problems"][0]["rule"] == "duplicate"
    assert found["row"]["source"] == f"{file}:3"
    taught = zip(found["row"]["pieces"], found["row"]["supervised"], strict=True)
    assert "".join(piece for piece, flag in taught if flag) == "Because.<|im_end|>"


def test_what_would_stop_a_run(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with file.open("a") as stream:
        stream.write('{"question": "x"\n')
    run(str(file), *COLUMNS, code=console.EXIT_FAILED)
    assert f"{file}:4: the line is not JSON" in capsys.readouterr().out


def test_no_row_is_left(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(file), *COLUMNS, "--max-length", "3", code=console.EXIT_FAILED)
    assert "no row would be trained on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{file}", "--row", "9", *COLUMNS], 4, "--row is 9, and the rows that would be trained"),
        (["{file}x"], 4, "no file is found at"),
        (["{file}", "--format", "chat"], 4, "format is 'chat'"),
        (["{file}", "--max-length", "0"], 4, "max_length is 0"),
        (["{file}", "--column", "prompt"], 2, "write OURS=THEIRS"),
        (["{file}", "--model", "nothing"], 4, "no model 'nothing'; known models"),
        (["{file}", "--max-length", "100000"], 4, "reads at most 8192"),
        ([], 2, "Missing argument"),
    ],
)
def test_wrong_words(
    file: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    run(*(word.format(file=file) for word in words), code=code)
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_module_is_the_command(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "train", "data", "check", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == console.EXIT_FAILED, done.stderr
    assert "name your keys in columns" in done.stdout


SHOWN = ShownRow("a:1", ("a", "b", "c", "d"), (False, True, True, False))


def test_supervised_spans() -> None:
    assert SHOWN.marked() == "a[[bc]]d"
    screen = Console(force_terminal=True, color_system="standard", width=80)
    with screen.capture() as captured:
        screen.print(SHOWN.coloured())
    assert captured.get() == "\x1b[2ma\x1b[0m\x1b[1;32mbc\x1b[0m\x1b[2md\x1b[0m\n"


def test_answers_that_are_compared_are_shown_one_by_one() -> None:
    row = ShownRow("a:1", ("p", "a", "b"), (False, True, True), ((1, "chosen"), (2, "rejected")))
    assert row.marked() == "p\nchosen: [[a]]\nrejected: [[b]]"
    assert row.coloured().plain == "p\nchosen: a\nrejected: b"


def test_parts_are_those_of_the_kind_of_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "p", "chosen": "good", "rejected": "bad"}) + "\n")
    found = show_row(examine(DataOptions(train=(str(path),)), small()).train, 0, small())
    told = found.marked()
    assert [name for _, name in found.parts] == ["chosen", "rejected"]
    assert told.index("\nchosen: [[good") < told.index("\nrejected: [[bad")
    assert "prefer the first" in found.told
    names = np.array([5, 6, 7], np.int32), np.zeros(3, np.bool_)
    for labelled, starts, expected in (
        (True, (0, 1), ["text", "label"]),
        (False, (0, 1, 2), ["anchor", "positive", "negative"]),
    ):
        data = TokenizedData.of_rows(
            [TokenRow(*names, None, starts, labelled)], [(0, 1)], ["rows.jsonl"]
        )
        shown = show_row(data, 0, small())
        assert [name for _, name in shown.parts] == expected
        assert shown.marked().startswith(f"{expected[0]}: ")
        assert "compared" in shown.told


def test_data_does_not_steer_the_terminal() -> None:
    row = ShownRow("a:1", ("a\x1b[31m\n", "\u00e9\t\r"), (False, True))
    assert row.marked() == "a\\x1b[31m\n[[\u00e9\t\\r]]"
    assert "\x1b" not in row.coloured().plain


def test_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    answers = ["x" * n for n in range(1, 101)]
    path.write_text(
        "".join(
            json.dumps({"prompt": str(n), "completion": a}) + "\n" for n, a in enumerate(answers)
        )
    )
    options = DataOptions.model_validate({"train": str(path), "eval_share": 0.1})
    found = examine(options, small())
    counts: dict[str, Any] = facts(found, options)
    assert counts["rows"] == counts["trained_on"] + counts["held_out"] == 100
    assert counts["supervised_share"] == pytest.approx(
        counts["supervised_tokens"] / counts["tokens"], abs=1e-4
    )
    lengths = sorted(found.report.lengths)
    assert counts["length_percentiles"] == {
        "p5": lengths[4],
        "p50": lengths[49],
        "p95": lengths[94],
        "p99": lengths[98],
        "p100": lengths[99],
    }
    rows = dict(table(counts))
    assert rows["rows held out"] == str(counts["held_out"])
    assert rows["tokens of a row"].startswith(f"median {lengths[49]}, 5 % {lengths[4]}, ")
    assert rows["tokens of a row"].endswith(f"99 % {lengths[98]}, most {lengths[99]}")
    assert show_row(found.train, 0, small()).source == f"{path}:{found.train.lines[0]}"


def test_rows_that_are_too_long_are_counted_whatever_becomes_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    ends = [("x" * 40 + "y", "x" * 40 + "z"), ("x" * 40, "z" * 40), ("x", "z")]
    rows = ({"prompt": "a", "chosen": chosen, "rejected": other} for chosen, other in ends)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = DataOptions.model_validate(
        {"train": str(path), "max_length": 60, "over_length": "truncate"}
    )
    counts = facts(examine(options, small()), options)
    assert (counts["over_length"], counts["trained_on"]) == (2, 2)
    assert counts["left_out"] == {"equal-answers": 1}
