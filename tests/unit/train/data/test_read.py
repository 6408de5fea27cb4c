"""Files to data: what is kept, what is left out and told, what stops a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import DataError, ModelLoadError, SettingsError
from tests.unit.train.small_tokenizers import CHATML, small
from train.data import read, rows
from train.data.options import DataOptions
from train.data.problems import DataProblem
from train.data.read import examine, in_process, read_data
from train.data.records import Record
from train.data.split import is_held_out

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def one(name: str, *lines: Any) -> str:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / name).write_text("".join(text + "\n" for text in texts))
        return str(tmp_path / name)

    return one


def pair(prompt: str, completion: str = "yes") -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


def options(*files: str, **changes: Any) -> DataOptions:
    return DataOptions.model_validate({"train": files, **changes})


def rules(problems: tuple[DataProblem, ...]) -> list[tuple[str, str, bool]]:
    return [(Path(p.file).name + f":{p.line}", p.rule, p.stops) for p in problems]


def test_rows_keep_the_order_of_the_files(write: Write) -> None:
    b = write("b.jsonl", pair("1"), "", pair("2"))
    a = write("a.jsonl", pair("3"))
    found = read_data(options(b, a), small())
    assert [found.train.source(i) for i in range(3)] == [f"{b}:1", f"{b}:3", f"{a}:1"]
    assert found.eval is None
    assert (found.report.rows, found.report.problems) == (3, ())


def test_blocks_change_nothing(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("a.jsonl", *(pair(str(n)) for n in range(10)), "[]", pair("last"))
    chosen = options(file, invalid_rows="drop")
    whole = read_data(chosen, small())
    monkeypatch.setattr(rows, "BLOCK_ROWS", 3)

    def backwards(*arguments: Any) -> Any:
        blocks = list(in_process(*arguments))
        assert len(blocks) == 4
        return reversed(blocks)

    parts = read_data(chosen, small(), backwards)
    assert parts.train.digest == whole.train.digest
    assert parts.train.lines.tolist() == [*range(1, 11), 12]
    assert parts.report == whole.report


def test_every_problem_is_named_before_the_run_stops(write: Write) -> None:
    a = write("a.jsonl", pair("1"), "{", pair(""), {"messages": []})
    b = write("b.jsonl", {"x": 1})
    empty = write("c.jsonl")
    with pytest.raises(DataError) as caught:
        read_data(options(a, b, empty), small())
    lines = str(caught.value).splitlines()
    places = [line.removeprefix(str(Path(a).parent) + "/").partition(": ")[0] for line in lines[1:]]
    assert places == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4", "b.jsonl:1", "c.jsonl"]
    assert caught.value.counts == {
        "bad-json": 1,
        "empty-content": 1,
        "bad-messages": 1,
        "unknown-keys": 1,
        "no-rows": 1,
    }


def test_broken_rows_may_be_left_out_but_broken_files_not(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    a = write("a.jsonl", pair("1"), "{", pair(""))
    found = read_data(options(a, invalid_rows="drop"), small())
    assert len(found.train) == 1
    assert found.report.left_out == {"bad-json": 1, "empty-content": 1}
    assert f"1 of 3 rows are left out (bad-json): {a}:2" in caplog.text
    with pytest.raises(DataError, match="it has no rows"):
        read_data(options(a, write("b.jsonl"), invalid_rows="drop"), small())


def test_a_file_that_cannot_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("a.jsonl", pair("1"))

    def refuse(path: str) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(read, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"a.jsonl: it cannot be read \(Permission denied\)"):
        read_data(options(file), small())


def test_mixed_forms(write: Write) -> None:
    turns = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    a, b = write("a.jsonl", pair("1"), turns, pair("2")), write("b.jsonl", turns)
    report = examine(options(a, b), small()).report
    assert rules(report.problems) == [("a.jsonl:2", "mixed-schema", True)]
    assert "format messages, line 1 of the same file of prompt_completion" in str(
        report.problems[0]
    )
    found = read_data(options(a, b, invalid_rows="drop"), small())
    assert found.train.lines.tolist() == [1, 3, 1]


class TestLength:
    """Rows over the limit."""

    def test_they_are_left_out_and_told(
        self, write: Write, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = write("a.jsonl", pair("1"), pair("2", "x" * 100))
        found = read_data(options(file, max_length=60), small())
        assert found.train.lines.tolist() == [1]
        assert found.report.left_out == {"over-length": 1}
        assert max(found.report.lengths) > 100
        assert "1 of 2 rows are left out (over-length)" in caplog.text

    def test_they_are_cut(self, write: Write, caplog: pytest.LogCaptureFixture) -> None:
        file = write("a.jsonl", pair("1"), pair("2", "x" * 100), pair("p" * 100))
        chosen = options(file, max_length=60, over_length="truncate")
        found = read_data(chosen, small())
        assert found.train.lines.tolist() == [1, 2]
        assert found.train.lengths.tolist()[1] == 60
        # of the third nothing would be left to learn
        assert found.report.left_out == {"over-length": 1}
        assert "1 of 3 rows are cut to max_length" in caplog.text
        advice = [problem.advice for problem in found.report.problems]
        assert "tokens are cut" in advice[0]
        assert "no supervised token would be left" in advice[1]

    def test_they_stop_a_run(self, write: Write) -> None:
        file = write("a.jsonl", pair("1"), pair("2", "x" * 100))
        with pytest.raises(DataError, match=r"a.jsonl:2: the row has \d+ tokens, more than max_le"):
            read_data(options(file, max_length=60, over_length="error"), small())

    def test_a_row_that_no_template_writes(self, write: Write) -> None:
        file = write("a.jsonl", pair("1"), pair("2", "x" * 1_000_001))
        found = read_data(options(file), small())
        assert found.report.left_out == {"over-length": 1}
        with pytest.raises(DataError, match=r"a.jsonl:2: the conversation has more than 1000000"):
            read_data(options(file, over_length="error"), small())

    def test_a_row_of_just_the_limit_is_kept(self, write: Write) -> None:
        file = write("a.jsonl", pair("1"))
        [length] = read_data(options(file), small()).report.lengths
        assert len(read_data(options(file, max_length=length), small()).train) == 1
        assert len(read_data(options(file, max_length=length - 1), small()).train) == 0

    def test_more_than_the_model_reads(self, write: Write) -> None:
        file = write("a.jsonl", pair("1"))
        with pytest.raises(
            SettingsError, match=r"data.max_length is 1024, and small reads at most"
        ):
            read_data(options(file), small(context=512))


class TestDuplicates:
    """Rows that are there twice."""

    def test_they_are_told(self, write: Write, caplog: pytest.LogCaptureFixture) -> None:
        a = write("a.jsonl", pair("one  two"), pair("one two"), pair("x"))
        b = write("b.jsonl", pair("one two "))
        found = read_data(options(a, b), small())
        assert (len(found.train), found.report.duplicates) == (4, 2)
        assert rules(found.report.problems) == [
            ("a.jsonl:2", "duplicate", False),
            ("b.jsonl:1", "duplicate", False),
        ]
        assert f"that of {a}:1 but for white space; set dedup" in str(found.report.problems[1])
        assert "2 of 4 rows are duplicates" in caplog.text

    def test_they_are_left_out(self, write: Write) -> None:
        a = write("a.jsonl", pair("one  two"), pair("one two"), pair("x"), pair("x", "no"))
        found = read_data(options(a, deduplicate=True), small())
        assert found.train.lines.tolist() == [1, 3, 4]
        assert found.report.left_out == {"duplicate": 1}


class TestHeldOut:
    """What is measured on."""

    def test_a_share(self, write: Write) -> None:
        lines = [pair(f"question {n}") for n in range(200)]
        found = read_data(options(write("a.jsonl", *lines), eval_share=0.2), small())
        assert found.eval is not None
        assert len(found.train) + len(found.eval) == 200
        assert 20 <= len(found.eval) <= 60
        # a row stays on its side when others are added
        file = write("b.jsonl", pair("new"), *lines)
        more = read_data(options(file, eval_share=0.2), small())
        assert more.eval is not None
        before = [line - 1 for line in more.eval.lines.tolist() if line > 1]
        assert before == found.eval.lines.tolist()

    def test_pairs_of_one_prompt_are_on_one_side(self, write: Write) -> None:
        def lines(end: str) -> list[str]:
            pairs = ({"prompt": f"question {n}", "chosen": end, "rejected": "x"} for n in range(60))
            return [json.dumps(one) for one in pairs]

        file = write("a.jsonl", *lines("good"), *lines("better"))
        found = read_data(options(file, eval_share=0.3), small())
        assert found.eval is not None
        out = found.eval.lines.tolist()
        assert 10 <= len(out) <= 60
        assert [line for line in out if line > 60] == [line + 60 for line in out if line <= 60]

    def test_files(self, write: Write, caplog: pytest.LogCaptureFixture) -> None:
        a = write("a.jsonl", pair("1"), pair("2"))
        b = write("b.jsonl", pair("2 "), pair("3"))
        found = read_data(options(a, eval=[b]), small())
        assert found.eval is not None
        assert (len(found.train), len(found.eval), found.report.in_eval) == (2, 2, 1)
        assert rules(found.report.problems) == [("a.jsonl:2", "in-eval-too", False)]
        assert "1 of 2 rows are held out too" in caplog.text
        found = read_data(options(a, eval=[b], deduplicate=True), small())
        assert found.train.lines.tolist() == [1]

    def test_what_is_wrong_with_them_stops_the_run_too(self, write: Write) -> None:
        a, b = write("a.jsonl", pair("1")), write("b.jsonl", "{")
        with pytest.raises(DataError, match=r"b.jsonl:1: the line is not JSON"):
            read_data(options(a, eval=[b]), small())


def test_keys_that_nothing_reads_are_told(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    file = write("a.jsonl", pair("1") | {"id": 1}, pair("2") | {"id": 2, "source": "web"})
    found = read_data(options(file), small())
    assert found.report.ignored == {"id": 2, "source": 1}
    assert "keys that nothing reads: id (2 rows), source (1 rows)" in caplog.text


def test_quality_filters(write: Write) -> None:
    file = write("a.jsonl", pair("1"), pair("2", "a\n" * 9))
    found = read_data(options(file, filters={"max_repeated_lines": 0.5}), small())
    assert found.train.lines.tolist() == [1]
    assert found.report.left_out == {"quality": 1}


def test_a_template_that_fails_on_one_row(write: Write) -> None:
    template = "{% if 'bad' in messages[0].content %}{{ messages[0].a.b }}{% endif %}" + CHATML
    file = write("a.jsonl", pair("1"), pair("bad"))
    report = examine(options(file), small(template)).report
    assert rules(report.problems) == [("a.jsonl:2", "template-refuses", True)]


def test_a_model_without_a_template_stops_at_once(write: Write) -> None:
    turns = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(ModelLoadError, match="has no chat template"):
        read_data(options(write("a.jsonl", turns)), small(None))
    with pytest.raises(ModelLoadError, match="names no token that ends a text"):
        read_data(options(write("b.jsonl", pair("1"))), small(None, end_tokens=()))


def test_errors_travel_between_processes(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray Data calls, without Ray."""
    file = write("a.jsonl", pair("1"))
    monkeypatch.setattr(read, "_unpickled", lambda work: work)
    [item] = read._parsed({"file": file, "number": 3})
    carried = read._tokenized(item, (options(file), small()))["tokens"]
    found = read._result(carried)
    assert (found.file_number, len(found.rows)) == (3, 1)
    carried = read._tokenized(item, (options(file), small(None, end_tokens=())))["tokens"]
    with pytest.raises(ModelLoadError, match="names no token that ends a text"):
        read._result(carried)
    [item] = read._parsed({"file": "nowhere://a.jsonl", "number": 0})
    carried = read._tokenized(item, (options(file), small()))["tokens"]
    with pytest.raises(DataError, match="unknown scheme 'nowhere'"):
        read._result(carried)


def test_a_row_that_is_nested_too_deeply(write: Write) -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "x": deep}]
    block = rows.Block("a.parquet", 0, 0, (Record(7, {"messages": turns}), Record(8, pair("1"))))
    found = rows.tokenize_block(block, options("a.parquet"), small())
    assert str(found.rows[0].problem).startswith("a.parquet:7: the row is nested too deeply")
    assert found.rows[1].tokens is not None


def test_values_that_json_has_not(write: Write) -> None:
    turns = [
        {"role": "user", "content": "a", "at": datetime(2024, 1, 1)},
        {"role": "assistant", "content": "b"},
    ]
    block = rows.Block("a.parquet", 0, 0, (Record(1, {"messages": turns}),))
    [row] = rows.tokenize_block(block, options("a.parquet"), small()).rows
    assert row.problem is None


def test_nothing_is_logged_where_nothing_is_left_out(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    read_data(options(write("a.jsonl", pair("1"), pair("2"))), small())
    assert caplog.records == []


def test_the_split_uses_the_contents_key() -> None:
    assert is_held_out(b"\x00" * 32, 0.01)
    assert not is_held_out(b"\xff" * 32, 0.99)
