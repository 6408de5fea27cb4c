"""What documents and the Makefile say of each other: targets, versions, length.

And that the variables which they, and the messages of the code, tell people to set are settings.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from ironcliw.setting_sections import ModelSettings
from ironcliw.settings import PREFIX, RESERVED, Settings

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
WITH_COMMANDS = sorted([ROOT / ".ci" / "run", *ROOT.glob("*.md"), *ROOT.glob("*/README.md")])


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_targets_exist(path: Path) -> None:
    # as code, or as a line of its own; `make` within a sentence is a verb
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^ *)make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert named <= TARGETS


def test_targets_are_phony_and_described() -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == TARGETS
    described = set(re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE))
    assert described == TARGETS


def test_the_changelog_is_of_this_release() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[([0-9.]+)\]", changelog, re.MULTILINE)
    assert released[0] == project["version"]


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") < 250


VARIABLE = re.compile(rf"{PREFIX}[A-Z][A-Za-z0-9_.-]*[A-Za-z0-9]")  # a model's id has dots
PACKAGES = ("actors", "benchmarks", "cluster", "ironcliw", "native_ops", "rl", "serve", "train")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
INSTALL = (ROOT / "cluster" / "vm" / "install.sh").read_text(encoding="utf-8")
# read by a worker's startup script on a test bed alone
TEST_BED = frozenset(re.findall(rf"{PREFIX}[A-Z_]+", INSTALL))


def is_variable(name: str) -> bool:
    """Whether a variable of this name does something."""
    section, *inside = name.removeprefix(PREFIX).lower().split("__")
    if section not in Settings.model_fields:
        return name in RESERVED | TEST_BED
    kind = Settings.model_fields[section].annotation
    if section == "models":
        return not inside or (len(inside) == 2 and inside[1] in ModelSettings.model_fields)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return not inside or (len(inside) == 1 and inside[0] in kind.model_fields)
    return not inside


def strings(source: str) -> Iterator[str]:
    """String literals, those of messages and docstrings too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def wrong_variables(text: str) -> set[str]:
    return {name for name in VARIABLE.findall(text) if not is_variable(name)}


def test_wrong_variables_are_seen() -> None:
    right = (
        "IRONCLIW_SERVE__PORT=1 IRONCLIW_STATE_DIR `IRONCLIW_MODELS__a-b.c__SOURCE` IRONCLIW_CLOUD"
    )
    right += " IRONCLIW_<SECTION>__<NAME> IRONCLIW_CONFIG. IRONCLIW_VM_BIN"
    assert wrong_variables(right) == set()
    wrong = ["IRONCLIW_SERVE_PORT", "IRONCLIW_SERVE__PORTS", "IRONCLIW_STATE_DIR__A", "IRONCLIW_XY"]
    wrong += ["IRONCLIW_MODELS__a__PORT", "IRONCLIW_SERVE__PORT__A"]
    assert wrong_variables(" ".join(wrong)) == set(wrong)
    assert list(strings('"""a"""\nraise E(f"b {c} d")')) == ["a", "b ", " d"]


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_in_the_documents_are_settings(path: Path) -> None:
    assert wrong_variables(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_in_the_code_are_settings(path: Path) -> None:
    assert wrong_variables("\n".join(strings(path.read_text(encoding="utf-8")))) == set()
