"""Registered functions: names, arguments and what a running one may know."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors import functions
from actors.functions import StepContext, check_arguments, current_step, find, function
from ironcliw.errors import NotFoundError, RequestError, SettingsError


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(functions, "_registered", {})
    yield


def test_a_function_is_found_by_its_name() -> None:
    @function("text.upper", idempotent=True, cpus=0.5)
    def upper(text: str) -> str:
        return text.upper()

    found = find("text.upper")
    assert (found.call("a"), found.idempotent, found.cpus) == ("A", True, 0.5)
    assert upper("b") == "B", "the decorated function stays one"


def test_an_unknown_name_tells_the_known_ones() -> None:
    function("text.upper")(str.upper)
    with pytest.raises(NotFoundError, match=r"'text\.lower'; registered: text\.upper"):
        find("text.lower")


@pytest.mark.parametrize("name", ["", "a b", "1a", "a..b", "os.system()", "-a"])
def test_a_name_that_cannot_be_one(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot name a function"):
        function(name)


def test_two_functions_of_one_name() -> None:
    function("twice")(lambda: 1)
    with pytest.raises(SettingsError, match="two functions want the name 'twice'"):
        function("twice")(find)


def test_wrong_arguments_are_told_before_the_run() -> None:
    function("add")(lambda left, right=2: left + right)
    check_arguments("add", {"left": 1})
    with pytest.raises(RequestError, match="missing a required argument: 'left'; given: nothing"):
        check_arguments("add", {})
    with pytest.raises(RequestError, match="unexpected keyword argument 'middle'"):
        check_arguments("add", {"left": 1, "middle": 3})


def test_a_module_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps_that_fail.py").write_text("raise OSError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingsError, match=r"steps_that_fail cannot be imported \(OSError: no li"):
        functions.load_modules(["steps_that_fail"])


def test_a_module_registers_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps_of_a_test.py").write_text(
        "from actors.functions import function\nfunction('one')(lambda: 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    functions.load_modules(["steps_of_a_test"])
    assert find("one").call() == 1
    del sys.modules["steps_of_a_test"]


def test_the_running_step_is_known_inside_and_nowhere_else() -> None:
    context = StepContext("w", "s", None, 1, "w/s", None)
    with functions.running_step(context):
        assert current_step() is context
    with pytest.raises(RequestError, match="outside a workflow's step"):
        current_step()
