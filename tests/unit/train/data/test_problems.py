"""What the error about data shows."""

from __future__ import annotations

import pickle

import pytest

from ironcliw.errors import DataError
from train.data.problems import DataProblem, RowError, counts_by_rule, raise_if_any, shortened


def problem(line: int, *, stops: bool = True) -> DataProblem:
    return DataProblem("a.jsonl", line, "bad-json", "it is broken", "mend it", stops)


def test_a_problem_in_words() -> None:
    assert str(problem(3)) == "a.jsonl:3: it is broken; mend it [bad-json]"
    assert problem(0).place == "a.jsonl"


def test_a_row_error_gets_its_place() -> None:
    error = RowError("quality", "short", "it is left out", stops=False)
    assert error.at("b", 7) == DataProblem("b", 7, "quality", "short", "it is left out", False)


def test_the_first_twenty_and_the_counts() -> None:
    found = [problem(line) for line in range(1, 31)]
    found.append(DataProblem("b", 1, "empty-content", "x", "y"))
    with pytest.raises(DataError) as caught:
        raise_if_any([problem(99, stops=False), *found])
    lines = str(caught.value).splitlines()
    assert lines[0] == "the training data has 31 problem(s): bad-json 30, empty-content 1"
    assert lines[1:21] == [str(one) for one in found[:20]]
    assert lines[21:] == ["... and 11 more; `ironcliw train data check FILE` shows them all"]
    assert caught.value.counts == {"bad-json": 30, "empty-content": 1}
    assert pickle.loads(pickle.dumps(caught.value)).counts == caught.value.counts


def test_all_are_shown_where_they_are_few() -> None:
    with pytest.raises(DataError, match="mend it") as caught:
        raise_if_any([problem(1)])
    assert len(str(caught.value).splitlines()) == 2


def test_what_stops_nothing_raises_nothing() -> None:
    raise_if_any([problem(1, stops=False)])


def test_counts() -> None:
    found = [problem(1), DataProblem("b", 1, "quality", "", ""), problem(2)]
    assert list(counts_by_rule(found).items()) == [("bad-json", 2), ("quality", 1)]


def test_long_values_are_cut() -> None:
    assert shortened("abc") == "'abc'"
    assert len(shortened("a" * 100)) == 60
    assert shortened("a" * 100).endswith("...")
