"""What is said of the kernels before they are loaded, and the setting in a bare process."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from ironcliw.catalog import Catalog
from ironcliw.setting_sections import ServeSettings
from ironcliw.settings import process_environment
from native_ops import binary, presence
from serve import host
from serve.host import ModelHost

ROOT = Path(__file__).resolve().parents[3]


def run(code: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *code.split(maxsplit=1)],
        env=process_environment(PYTHONPATH=str(ROOT), **changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_process_that_imports_an_operator_alone_computes_at_the_level_that_is_set() -> None:
    code = "from native_ops import binary, norms; print(binary.load().level())"
    done = run(f"-c {code}", IRONCLIW_CPU_CAPABILITY="baseline")
    assert (done.returncode, done.stdout, done.stderr) == (0, "baseline\n", "")


def test_the_command_names_the_level_that_is_set() -> None:
    done = run("-m native_ops", IRONCLIW_CPU_CAPABILITY="baseline")
    assert done.stdout.startswith("compiled kernels: baseline of baseline")
    assert done.returncode == 0


def test_the_command_refuses_a_level_that_is_none() -> None:
    done = run("-m native_ops", IRONCLIW_CPU_CAPABILITY="avx3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cpu_capability from environment" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_binary_is_found_without_torch() -> None:
    code = "import sys; from native_ops import presence; "
    done = run(f"-c {code}print(presence.installed(), 'torch' in sys.modules)")
    assert done.stdout == "True False\n", done.stderr


def native_of(tmp_path: Path) -> str:
    model_host = ModelHost(Catalog(), ServeSettings(), tmp_path, "here")
    return str(model_host.stats()["native"])


def test_a_host_says_from_the_start_why_the_kernels_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native_of(tmp_path) == binary.state().level
    monkeypatch.setattr(host, "sys", types.SimpleNamespace(modules={}))  # as without torch
    assert native_of(tmp_path) == "installed; the level is chosen when the first model is loaded"
    monkeypatch.setitem(sys.modules, presence.MODULE, None)  # as if it were not installed
    assert native_of(tmp_path).startswith(
        "none, the slow references in torch: there are no compiled kernels; run `make native`"
    )
