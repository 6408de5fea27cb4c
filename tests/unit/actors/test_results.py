"""Results by reference: what is kept, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.results import (
    Results,
    addresses_in,
    is_reference,
    resolved,
    results_url,
    to_json,
)
from actors.workflow.tasks import REFERENCE_KEY
from ironcliw.errors import NotFoundError, RequestError, RequestTooLargeError, StoreError

WORKFLOW = "wf-1"


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(str(tmp_path / "results"), inline_bytes=100, most_bytes=1000)


def keep(results: Results, value: Any) -> str | None:
    return results.keep(WORKFLOW, to_json(value, "it"), "it")


def load(results: Results, address: str) -> Any:
    return json.loads(results.read(WORKFLOW, address))


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def test_what_may_be_shown() -> None:
    value = [2**64 - 1, -(2**63), 1e300, "\U0001f600", "\\ud800", deep(200)]
    assert json.loads(to_json(value, "it")) == value


def test_a_small_result_stays_where_it_is(results: Results, tmp_path: Path) -> None:
    assert keep(results, "a" * 98) is None
    assert not list(tmp_path.rglob("*.*"))


def test_a_large_one_comes_back_wherever_it_is_named(results: Results) -> None:
    value = {"words": ["w"] * 100}
    address = keep(results, value)
    assert address is not None
    reference = {REFERENCE_KEY: address}
    assert is_reference(reference)
    assert results.resolve(WORKFLOW, reference) == value
    nested = results.resolve(WORKFLOW, {"a": [reference, 1], "b": {"c": reference}})
    assert nested == {"a": [value, 1], "b": {"c": value}}


def test_a_result_of_another_workflow_is_nobodys_business(results: Results) -> None:
    address = keep(results, "z" * 200)
    with pytest.raises(RequestError, match="is no result of workflow wf-2"):
        results.resolve("wf-2", [{REFERENCE_KEY: address}])


def test_results_that_somebody_else_has_read_are_put_in_their_places() -> None:
    value = {"a": [{REFERENCE_KEY: "one"}, 1], "b": {REFERENCE_KEY: "two"}}
    contents = [json.dumps(f"what {name} holds").encode() for name in addresses_in(value)]
    brought = iter(contents)
    whole = {"a": ["what one holds", 1], "b": "what two holds"}
    assert resolved(value, lambda address: next(brought)) == whole


def test_the_same_result_is_kept_once(results: Results, tmp_path: Path) -> None:
    assert keep(results, "b" * 200) == keep(results, "b" * 200)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_what_a_crash_has_left_of_a_result_is_written_anew(
    results: Results, tmp_path: Path
) -> None:
    address = keep(results, "b" * 200)
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    path.write_bytes(path.read_bytes()[:50])
    assert keep(results, "b" * 200) == address
    assert address is not None
    assert load(results, address) == "b" * 200


def test_a_result_is_on_the_disk_before_anybody_names_it(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def fsync(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        synced.append(path.suffix if path.is_file() else path.name)
        files.append(sorted(one.suffix for one in tmp_path.rglob("*") if one.is_file()))

    files: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", fsync)
    assert keep(results, "b" * 200) is not None
    assert synced == [".new", WORKFLOW, "results", tmp_path.name]
    assert files == [[".new"], [""], [""], [""]], "the content first, then its name"


def test_a_result_over_the_limit(results: Results) -> None:
    with pytest.raises(RequestTooLargeError, match=r"it has 1002 bytes .* allows 1000"):
        keep(results, "c" * 1000)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({1: "a"}, "the key 1 is no text"),
        ([{"a": {2: 3}}], "the key 2 is no text"),
        (float("nan"), "not JSON compliant"),
        ({"a", "b"}, "set is not JSON serializable"),
        (b"bytes", "bytes is not JSON serializable"),
        ([2**70], "cannot be shown: Integer exceeds 64-bit range"),
        ({"a": "\ud800"}, "cannot be shown: str is not valid UTF-8"),
        ({"\udfff": 1}, "cannot be shown: str is not valid UTF-8"),
        (deep(245), "cannot be shown: Recursion limit reached"),
    ],
)
def test_what_json_cannot_say(value: Any, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        to_json(value, "the result of step a")


def test_a_damaged_file_is_found_out(results: Results, tmp_path: Path) -> None:
    address = keep(results, "d" * 200)
    assert address is not None
    [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
    path.write_bytes(path.read_bytes().replace(b"d", b"e", 1))
    with pytest.raises(StoreError, match="is damaged"):
        load(results, address)


def test_a_file_that_is_gone(results: Results) -> None:
    address = keep(results, "f" * 200)
    assert address is not None
    results.forget(WORKFLOW)
    results.forget(WORKFLOW)
    with pytest.raises(NotFoundError, match=r"is gone from .*results; run the workflow again"):
        load(results, address)


@pytest.mark.parametrize(
    "address",
    ["", "result:../../etc/passwd", "result:a/b", "file:///etc/passwd", "result:a/0"],
)
def test_an_address_of_somebody_else(results: Results, address: str) -> None:
    with pytest.raises(RequestError, match="is no address of a result"):
        load(results, address)


def test_where_results_are_kept(tmp_path: Path) -> None:
    assert results_url(None, tmp_path) == str(tmp_path / "results")
    assert results_url("memory://here", tmp_path) == "memory://here"
    assert results_url("beside/me", tmp_path) == str(Path.cwd() / "beside/me"), "for any process"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inside: (
        st.lists(inside)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])).filter(
                lambda key: key != REFERENCE_KEY
            ),
            inside,
        )
    ),
)


@given(JSON)
def test_any_json_survives(value: Any) -> None:
    results = Results("memory://results", inline_bytes=0, most_bytes=10**9)
    address = results.keep(WORKFLOW, to_json(value, "it"), "it")
    assert address is not None
    assert load(results, address) == value
