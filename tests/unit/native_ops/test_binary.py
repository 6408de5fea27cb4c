"""The compiled kernels: found, checked, chosen; and what is said where there are none."""

from __future__ import annotations

import logging
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from ironcliw.errors import SettingsError
from ironcliw.settings import process_environment
from native_ops import __main__ as command
from native_ops import binary

ROOT = Path(__file__).resolve().parents[3]
MODULE = "_ironcliw_native"


@pytest.fixture
def fresh() -> Iterator[None]:
    """`load` looks again; the real binary is back afterwards."""
    binary.load.cache_clear()
    yield
    binary.load.cache_clear()


def put_module(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the binary's name that comes before the installed one."""
    (folder / f"{MODULE}.py").write_text(text, encoding="utf-8")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.syspath_prepend(folder)


def test_the_binary_is_here_and_uses_the_highest_level() -> None:
    state = binary.state()
    assert state.reason == "", "no compiled kernels: run `make native`"
    assert state.levels[0] == "baseline"
    assert state.level == state.levels[-1]
    assert str(state) == state.level


def test_each_level_can_be_chosen_and_the_highest_again() -> None:
    levels = binary.state().levels
    for level in levels:
        binary.choose_level(level)
        assert binary.state().level == level
    binary.choose_level("")
    assert binary.state().level == levels[-1]


@pytest.mark.parametrize("name", ["avx3", "AVX2", " ", "neon sve"])
def test_an_unknown_level_is_refused_and_changes_nothing(name: str) -> None:
    before = binary.state()
    with pytest.raises(SettingsError, match=rf"is '{name}'; this machine can use baseline"):
        binary.choose_level(name)
    assert binary.state() == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "def interface():\n    return 999\n",
            f"have interface 999, this release needs {binary.INTERFACE}; run `make native`",
        ),
        ("raise ImportError('libc10.so: cannot open')\n", r"loaded \(libc10\.so: cannot open\)"),
    ],
    ids=["another interface", "broken"],
)
def test_a_binary_that_does_not_fit(
    text: str,
    reason: str,
    tmp_path: Path,
    fresh: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put_module(tmp_path, text, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert binary.load() is None
        assert binary.load() is None
    [record] = caplog.records
    assert record.getMessage().startswith("the slow reference operators in torch are used: ")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(binary.state().reason)
    assert binary.state().level is None
    assert str(binary.state()).startswith("none, the slow references in torch: ")
    binary.choose_level("avx3")  # nothing to choose from: `load` has said so


def test_no_binary(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)  # as if it were not installed
    assert binary.state().reason.startswith("there are no compiled kernels; run `make native`")


def test_a_module_that_the_binary_lacks_is_not_taken_for_an_absent_binary(
    tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_module(tmp_path, "import absent_thing\n", monkeypatch)
    with pytest.raises(ModuleNotFoundError, match="absent_thing"):
        binary.load()


def test_the_command_says_what_is_used(
    fresh: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main() == 0
    assert capsys.readouterr().out == (
        f"compiled kernels: {binary.state().level} of {', '.join(binary.state().levels)}\n"
    )
    binary.load.cache_clear()
    monkeypatch.setitem(sys.modules, MODULE, types.SimpleNamespace(interface=lambda: 0))
    assert command.main() == 1
    assert "interface 0" in capsys.readouterr().out


def test_operators_run_on_their_references_where_the_interface_differs(tmp_path: Path) -> None:
    (tmp_path / f"{MODULE}.py").write_text("def interface():\n    return 999\n", encoding="utf-8")
    code = (
        "import torch\n"
        "from native_ops import binary, norms\n"
        "y = norms.rms_norm(torch.full((2, 4), 3.0), torch.ones(4), 0.0)\n"
        "assert torch.equal(y, torch.ones(2, 4)), y\n"
        "kernel = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        "assert not kernel('ironcliw::rms_norm', 'CPU')\n"
        "assert binary.state().level is None\n"
    )
    environment = process_environment(PYTHONPATH=f"{tmp_path}:{ROOT}")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the slow reference operators in torch are used" in done.stderr
