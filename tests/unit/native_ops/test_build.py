"""The build: numbers and pins that must agree, and what happens where nothing can be compiled."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from ironcliw.settings import process_environment
from native_ops import binary

ROOT = Path(__file__).resolve().parents[3]
NATIVE = ROOT / "native_ops"


def project(folder: Path) -> dict[str, object]:
    table = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(table, dict)
    return table


def test_both_sides_have_the_same_interface() -> None:
    source = (NATIVE / "csrc" / "bind" / "module.cpp").read_text(encoding="utf-8")
    [number] = re.findall(r"kInterface = (\d+);", source)
    assert int(number) == binary.INTERFACE


def test_both_distributions_are_of_one_release_and_one_torch() -> None:
    assert project(NATIVE)["version"] == project(ROOT)["version"]
    text = (NATIVE / "pyproject.toml").read_text(encoding="utf-8")
    pins = re.findall(r'"torch==([0-9.]+)"', text)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert len(pins) == 2
    assert all(f"\ntorch=={pin}\n" in constraints for pin in pins)
    for tool in ("cmake", "ninja", "scikit_build_core"):
        assert f"\n{tool}==" in constraints, f"{tool} is not pinned"


def test_kernels_include_no_c_plus_plus_library() -> None:
    """An inline function of the library, compiled for AVX-512, may be linked for every level."""
    allowed = re.compile(
        r'#include ("[^"]+"|<[a-z0-9_]+\.h>|<c(float|limits|math|stdint|stddef|string)>)'
    )
    wrong = [
        f"{path.name}: {line}"
        for folder in ("kernels", "simd")
        for path in sorted((NATIVE / "csrc" / folder).iterdir())
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("#include") and not allowed.match(line)
    ]
    assert wrong == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what `make native` needs, with an environment of its own around this one's."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "models.txt", "solver.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("native_ops", "ironcliw"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    venv = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    [packages] = venv.glob("lib/python3*/site-packages")
    here = sysconfig.get_paths()["purelib"]
    (packages / "around.pth").write_text(here + "\n", encoding="utf-8")
    stamp = venv / ".installed"
    stamp.touch()
    newer = max(path.stat().st_mtime for path in tmp_path.iterdir()) + 1
    os.utime(stamp, (newer, newer))
    return tmp_path


def make(tree: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "native"],
        cwd=tree,
        env=process_environment(CXX="/bin/false", MAKEFLAGS="", **variables),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_without_a_compiler_the_install_succeeds_and_says_so(tree: Path) -> None:
    done = make(tree)
    assert done.returncode == 0, done.stdout + done.stderr
    line = "the C++ kernels could not be compiled (build/native.log)"
    assert done.stdout.count(line) == 1
    assert (tree / "build" / "native.log").stat().st_size > 0
    assert not (tree / ".venv" / ".native").exists()


def test_where_the_kernels_are_required_their_absence_is_an_error(tree: Path) -> None:
    done = make(tree, IRONCLIW_NATIVE="required")
    assert done.returncode != 0
    assert "could not be compiled" in done.stdout
    assert "/bin/false" in done.stdout, "the log is not shown"


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (NATIVE / "csrc").rglob("*") if path.is_file()),
    ids=lambda path: str(path.relative_to(NATIVE)),
)
def test_compiled_source_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 600, "split the file: over 600 lines nobody reads it"
    assert text.isascii(), "ASCII only"
