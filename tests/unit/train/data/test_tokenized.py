"""Tokenised rows: what counts for the digest, and a folder that is whole or refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import DataError, NewerFormatError
from tests.unit.train.data.token_rows import rows_of, token_row
from train.data.tokenized import TokenizedData


@pytest.fixture
def data() -> TokenizedData:
    rows = [token_row(3, 1), token_row(5, 4, 10), token_row(2, 1, 20)]
    return TokenizedData.of_rows(rows, [(0, 1), (1, 7), (1, 9)], ["a.jsonl", "b.csv"])


def test_rows(data: TokenizedData) -> None:
    assert len(data) == 3
    assert data.row(1).tokens.tolist() == [10, 11, 12, 13, 14]
    assert data.row(1).supervised.tolist() == [False, True, True, True, True]
    assert (data.lengths.tolist(), data.supervised_counts.tolist()) == ([3, 5, 2], [1, 4, 1])
    assert [data.supervised_count(i) for i in range(3)] == [1, 4, 1]
    assert [data.source(i) for i in range(3)] == ["a.jsonl:1", "b.csv:7", "b.csv:9"]
    kinds = [str(getattr(data, name).dtype) for name in ("tokens", "supervised", "offsets")]
    assert kinds == ["int32", "bool", "int64"]
    assert [str(data.files.dtype), str(data.lines.dtype)] == ["int32", "int64"]


def test_the_digest_never_changes(data: TokenizedData) -> None:
    # a release that computes another one could not resume the runs of this one
    assert data.digest == "9689c808052fbf2316cb734700d2542ddc2e61b6a32c40805cd0a31f90f6a261"
    assert rows_of([]).digest != rows_of([2]).digest


def test_what_counts_for_the_digest(data: TokenizedData) -> None:
    rows = [data.row(i) for i in range(3)]
    places = [(0, 1), (1, 7), (1, 9)]
    assert TokenizedData.of_rows(rows, [(0, 4)] * 3, ["c"]).digest == data.digest
    swapped = TokenizedData.of_rows([rows[1], rows[0], rows[2]], places, ["a", "b"])
    shorter = TokenizedData.of_rows([token_row(3, 2), *rows[1:]], places, ["a", "b"])
    other = TokenizedData.of_rows([token_row(3, 1, 1), *rows[1:]], places, ["a", "b"])
    # the same tokens and masks with other borders
    joined = TokenizedData(
        data.tokens, data.supervised, np.array([0, 4, 8, 10]), data.files, data.lines, data.names
    )
    digests = {one.digest for one in (data, swapped, shorter, other, joined)}
    assert len(digests) == 5


def test_a_folder_gives_back_what_was_saved(data: TokenizedData, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "rows"
    data.save(folder)
    found = TokenizedData.open(folder)
    assert isinstance(found.tokens, np.memmap)
    assert (found.digest, found.names) == (data.digest, data.names)
    assert found.row(1).tokens.tolist() == data.row(1).tokens.tolist()
    assert [found.source(i) for i in range(3)] == [data.source(i) for i in range(3)]
    assert [one.name for one in folder.parent.iterdir()] == ["rows"]
    assert pickle.loads(pickle.dumps(found)).digest == data.digest


def test_a_folder_is_replaced_whole(data: TokenizedData, tmp_path: Path) -> None:
    data.save(tmp_path / "rows")
    rows_of([4]).save(tmp_path / "rows")
    assert len(TokenizedData.open(tmp_path / "rows")) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["rows"]


def test_a_save_that_fails_leaves_what_was_there(
    data: TokenizedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.save(tmp_path / "rows")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(DataError, match=r"rows \(No space left on device\); see that the folder"):
        rows_of([4]).save(tmp_path / "rows")
    monkeypatch.undo()
    assert TokenizedData.open(tmp_path / "rows").digest == data.digest
    assert [one.name for one in tmp_path.iterdir()] == ["rows"]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    ("tokens.npy", flip),
    ("supervised.npy", flip),
    ("tokens.npy", shorten),
    ("offsets.npy", shorten),
    ("files.npy", Path.unlink),
    ("tokens.npy", lambda file: np.save(file, np.zeros(10, np.int64))),
    ("offsets.npy", lambda file: np.save(file, np.array([0, 3, 3, 10]))),
    ("offsets.npy", lambda file: np.save(file, np.zeros(0, np.int64))),
    ("files.npy", lambda file: np.save(file, np.array([0, 1, 2], np.int32))),
    ("lines.npy", lambda file: np.save(file, np.array([0], np.int64))),
    ("data.json", shorten),
    ("data.json", lambda file: file.write_text("[]")),
    ("data.json", lambda file: file.write_text('{"format_version": 1, "rows": 3}')),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE, ids=range(len(DAMAGE)))
def test_damage_is_found(
    data: TokenizedData, tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    data.save(tmp_path / "rows")
    damage(tmp_path / "rows" / name)
    with pytest.raises(DataError, match=r"rows is damaged \(.*\); prepare it again"):
        TokenizedData.open(tmp_path / "rows")


def test_an_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no tokenised data \(data.json is absent\)"):
        TokenizedData.open(tmp_path)


def test_a_newer_format(data: TokenizedData, tmp_path: Path) -> None:
    data.save(tmp_path / "rows")
    header = tmp_path / "rows" / "data.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"format_version": 2}))
    with pytest.raises(NewerFormatError, match="of format 2, this release reads 1; update"):
        TokenizedData.open(tmp_path / "rows")


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_counts(lengths: list[int]) -> None:
    data = rows_of(lengths)
    assert data.lengths.tolist() == lengths
    assert data.supervised_counts.tolist() == [
        int(data.row(i).supervised.sum()) for i in range(len(data))
    ]
