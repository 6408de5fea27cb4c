"""Files to records: lines, what is wrong at which line, and every kind of file."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.problems import DataProblem
from train.data.records import Record, kind_of, parse


def read(name: str, content: bytes | str) -> list[Record | DataProblem]:
    return list(parse(name, content if isinstance(content, bytes) else content.encode()))


def problems(name: str, content: bytes | str) -> list[tuple[int, str]]:
    return [(p.line, p.rule) for p in read(name, content) if isinstance(p, DataProblem)]


def test_lines_keep_their_numbers() -> None:
    found = read("a.jsonl", '{"a": 1}\n\n  \r\n{"b": "\u2028"}\r\n')
    assert found == [Record(1, {"a": 1}), Record(4, {"b": "\u2028"})]


def test_a_byte_order_mark_is_no_content() -> None:
    assert read("a.jsonl", b'\xef\xbb\xbf{"a": 1}') == [Record(1, {"a": 1})]
    assert read("a.json", b'\xef\xbb\xbf[{"a": 1}]') == [Record(1, {"a": 1})]
    assert read("a.csv", b"\xef\xbb\xbfa\n1") == [Record(2, {"a": "1"})]


def test_what_is_wrong_stands_at_its_line_and_the_rest_is_read() -> None:
    content = b'{"a": 1}\n{"a": \n"\xff"\n[1]\n"text"\n' + b"[" * 100_000 + b'\n{"b": 2}'
    found = read("a.jsonl", content)
    assert [p.rule if isinstance(p, DataProblem) else p.line for p in found] == [
        1,
        "bad-json",
        "bad-utf8",
        "not-an-object",
        "not-an-object",
        "bad-json",
        7,
    ]
    assert str(found[1]) == (
        "a.jsonl:2: the line is not JSON (Expecting value at column 7): '{\"a\":'; write one JSON "
        "object a line [bad-json]"
    )
    assert str(found[2]).startswith("a.jsonl:3: byte 0xff is not UTF-8 (invalid start byte); save")


def test_a_list_of_objects_has_line_numbers() -> None:
    text = '[\n  {"a": 1},\n  {\n    "b": 2\n  },\n\n  {"c": "]"}\n]\n'
    assert read("a.json", text) == [
        Record(2, {"a": 1}),
        Record(3, {"b": 2}),
        Record(7, {"c": "]"}),
    ]
    assert read("a.json", "[]") == []
    assert read("a.json", '{"a": 1}\n{"a": 2}')[1] == Record(2, {"a": 2})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[\n{"a": 1}\n{"b": 2}]', 3),
        ('[\n{"a": 1},\n{"b": }]', 3),
        ('[{"a": 1},\n', 2),
        ('[{"a": 1}\n]\nmore', 2),
    ],
)
def test_a_broken_list_says_from_where(text: str, line: int) -> None:
    assert problems("a.json", text) == [(line, "bad-json")]
    first = read("a.json", text)[0]
    assert isinstance(first, Record)
    assert first.value == {"a": 1}


def test_a_table_keeps_line_numbers_over_line_breaks_in_cells() -> None:
    text = 'prompt,completion\nwhat,"two\nlines"\n\nlast,"a ""word"""\n'
    assert read("a.csv", text) == [
        Record(2, {"prompt": "what", "completion": "two\nlines"}),
        Record(5, {"prompt": "last", "completion": 'a "word"'}),
    ]
    assert read("a.tsv", "a\tb\n1,2\t3") == [Record(2, {"a": "1,2", "b": "3"})]


def test_a_cell_may_hold_turns() -> None:
    turns = [{"role": "user", "content": "x"}]
    cell = json.dumps(turns).replace('"', '""')
    assert read("a.csv", f'messages\n"{cell}"\n"[{{not"') == [
        Record(2, {"messages": turns}),
        Record(3, {"messages": "[{not"}),
    ]


def test_a_long_cell_is_read() -> None:
    [record] = read("a.csv", "a\n" + "x" * 200_000)
    assert isinstance(record, Record)
    assert len(record.value["a"]) == 200_000


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a,b\n1,2\n1,2,3\n4,5", [(3, "bad-csv")]),
        ("a,b\n1", [(2, "bad-csv")]),
        ("a,a\n1,2", [(1, "bad-csv")]),
        ("a,\n1,2", [(1, "bad-csv")]),
        ('a\n"x" y\n', [(2, "bad-csv")]),
        ('a\n1\n"never closed\n', [(3, "bad-csv")]),
    ],
)
def test_a_broken_table(text: str, found: list[tuple[int, str]]) -> None:
    assert problems("a.csv", text) == found


def test_a_table_that_is_not_utf8() -> None:
    assert problems("a.csv", b"a\n1\n\xff\n") == [(3, "bad-utf8")]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def test_parquet_counts_rows() -> None:
    rows = [{"messages": [{"role": "user", "content": str(n)}]} for n in range(3000)]
    found = read("a.parquet", parquet(rows))
    assert found == [Record(n + 1, row) for n, row in enumerate(rows)]


def test_a_damaged_parquet_file() -> None:
    content = parquet([{"a": 1}])
    assert problems("a.parquet", content[:-20]) == [(0, "unreadable-file")]
    assert problems("a.parquet", b"") == [(0, "unreadable-file")]


def test_gzip() -> None:
    content = gzip.compress(b'{"a": 1}\n')
    assert read("a.jsonl.gz", content) == [Record(1, {"a": 1})]
    assert problems("a.jsonl.gz", content[:-4]) == [(0, "unreadable-file")]


def test_kinds() -> None:
    assert [kind_of(n) for n in ("A.JSONL", "x/b.csv.gz", "gs://b/c.parquet", "plain")] == [
        ".jsonl",
        ".csv",
        ".parquet",
        "",
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=3), max_size=6),
    indent=st.sampled_from([None, 2]),
)
def test_both_forms_of_json_give_what_was_written(
    rows: list[dict[str, Any]], indent: int | None
) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # half of a surrogate pair cannot be written as UTF-8; that is tested elsewhere
    assert read("a.jsonl", lines) == [Record(n, row) for n, row in enumerate(rows, 1)]
    listed = read("a.json", json.dumps(rows, indent=indent))
    assert [one.value for one in listed if isinstance(one, Record)] == rows


@given(content=st.binary(max_size=200), name=st.sampled_from(["jsonl", "json", "csv", "parquet"]))
def test_any_bytes_end_in_records_and_problems(content: bytes, name: str) -> None:
    for one in parse(f"a.{name}", content):
        assert isinstance(one, Record | DataProblem)
