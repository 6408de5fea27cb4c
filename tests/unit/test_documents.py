"""What documents and the Makefile say of each other: targets, versions, length."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from ironcliw.settings import RESERVED, Settings

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


def test_variables_in_the_documents_are_settings() -> None:
    known = {f"IRONCLIW_{name.upper()}" for name in Settings.model_fields} | RESERVED
    for path in WITH_COMMANDS:
        named = re.findall(r"IRONCLIW_[A-Z_]+[A-Z]", path.read_text(encoding="utf-8"))
        wrong = {name for name in named if name.split("__")[0] not in known}
        assert wrong == set(), f"{path.name}: {wrong}"
