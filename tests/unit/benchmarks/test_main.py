"""The command: exit codes, files, refusals."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.harness import CAPS, BenchmarkError, Goal, Options, Row, Samples, ThemeResult
from ironcliw.settings import load_settings

DATA = ["--data", "anywhere"]


@pytest.fixture
def theme(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A theme `fake`, whose `run` a test sets."""
    module = types.ModuleType("fake_theme")
    monkeypatch.setitem(sys.modules, "fake_theme", module)
    monkeypatch.setitem(command.THEMES, "fake", "fake_theme")
    return module


def run(tmp_path: Path, *options: str) -> int:
    return command.main(["fake", *DATA, "--results", str(tmp_path), *options])


def result(value: float) -> ThemeResult:
    return ThemeResult([Row("fake", "speed", "x", Samples.of([value]), goal=Goal(3.0))])


@pytest.mark.parametrize(("value", "code"), [(3.0, 0), (2.9, 1)])
@pytest.mark.parametrize("quick", [(), ("--quick",)])
def test_a_missed_goal_is_exit_code_1(
    theme: types.ModuleType, tmp_path: Path, value: float, code: int, quick: tuple[str, ...]
) -> None:
    theme.run = lambda options: result(value)  # type: ignore[attr-defined]
    rows = tmp_path / "rows.json"
    assert run(tmp_path, "--json", str(rows), *quick) == code
    assert json.loads(rows.read_text())[0]["met"] is (code == 0)
    (page,) = tmp_path.glob("fake-*.md")
    assert ("quick" in page.name) is bool(quick)
    assert "python -m benchmarks fake" in page.read_text()


def test_options_reach_the_theme(
    theme: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CAPS["avx2"]:  # which the command sets: gone again after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    seen: list[Options] = []

    def record(options: Options) -> ThemeResult:
        seen.append(options)
        return result(3.0)

    theme.run = record  # type: ignore[attr-defined]
    assert run(tmp_path, "--cap", "avx2", "--rounds", "4") == 0
    (options,) = seen
    assert (options.cap, options.rounds, options.quick) == ("avx2", 4, False)
    assert options.data.name == "anywhere"
    assert load_settings().cpu_capability == "avx2"
    assert (options.model / "model.safetensors").is_file()


def test_parts_of_a_theme(
    theme: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Options] = []

    def record(options: Options) -> ThemeResult:
        seen.append(options)
        return result(3.0)

    theme.run = record  # type: ignore[attr-defined]
    assert run(tmp_path, "--part", "one") == 1
    assert "theme fake has no part 'one'; it has no parts" in capsys.readouterr().err
    theme.PARTS = {"one": None, "two": None}  # type: ignore[attr-defined]
    assert run(tmp_path, "--part", "three") == 1
    assert "no part 'three'; its parts are one, two" in capsys.readouterr().err
    assert run(tmp_path, "--part", "two") == 0
    assert [options.parts for options in seen] == [("two",)]
    (page,) = tmp_path.glob("fake-two-*.md")
    assert page.exists()


def test_what_cannot_be_run_is_an_error_and_leaves_no_page(
    theme: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(options: Options) -> ThemeResult:
        raise BenchmarkError("the texts are missing")

    theme.run = refuse  # type: ignore[attr-defined]
    assert run(tmp_path) == 1
    assert "error: the texts are missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [["nothing"], ["engines", "--rounds", "0"], []])
def test_wrong_usage_is_exit_code_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(argv)


def test_missing_data_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["engines", "--data", str(tmp_path)]) == 1
    assert "ironcliw bench fetch-data" in capsys.readouterr().err
