"""YAML is read as JSON can say it; messages name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.workflow.yaml_file import load_definition, parse_definition
from ironcliw.errors import RequestError


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = """
name: d
steps:
  a:
    function: f
    with: {no: no, on: "on", date: 2026-11-23, eight: 010, half: .5, big: 1e3, nothing: ~, empty: }
"""
    found = parse_definition(text, "d.yaml").source["steps"]["a"]["with"]
    assert found == {
        "no": "no",
        "on": "on",
        "date": "2026-11-23",
        "eight": 10,
        "half": 0.5,
        "big": 1000.0,
        "nothing": None,
        "empty": None,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: d\nsteps:\n  a: {function: f}\n  a: {function: g}\n", "4: the key 'a' stands in "),
        (
            "name: d\nsteps:\n  a:\n    function: f\n    wth: {}\n",
            "5: .*`wth`: there is no such field",
        ),
        ("name: d\nsteps:\n  a:\n    function: f\n    with:\n      q: [1, '${steps.b}']\n", "6: "),
        ("name: d\nsteps:\n  a:\n    function: f\n    retry:\n      attempts: 0\n", "6: "),
        ("name: d\nsteps:\n  a:\n    with: {}\n", "3: step 'a': it has none of"),
        ("name: d\nsteps: {}\n", "2: "),
        ("name: &n d\nsteps:\n  a: {function: *n}\n", "3: anchors are not read"),
        ("name: d\nsteps:\n  1: {function: f}\n", "3: a key must be a text: put it in quotes"),
        ("name: d\nsteps: [\n", "3: "),
        ("name: d\n\tsteps: x\n", "2: "),
        ("name: !!python/object:os.system d\n", "1: could not determine a constructor"),
        ("just text", "1: a workflow begins with `name:` and `steps:`"),
        ("", "1: a workflow begins"),
        ("name: d\x00", "1: this is no YAML"),
        ("[" * 5000, "1: this is no YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=rf"^d\.yaml:{message}"):
        parse_definition(text, "d.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"absent\.yaml cannot be read: .*No such file"):
        load_definition(tmp_path / "absent.yaml")
    (tmp_path / "d.yaml").write_text("name: d\nsteps: {a: {function: f}}\n")
    assert load_definition(tmp_path / "d.yaml").name == "d"
