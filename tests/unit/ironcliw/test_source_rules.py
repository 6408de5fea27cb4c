"""Rules of the house that no linter knows, checked over the whole source tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("actors", "benchmarks", "cluster", "ironcliw", "native_ops", "rl", "serve", "train")
SOURCES = sorted(path for name in (*PACKAGES, "tests") for path in (ROOT / name).rglob("*.py"))
ENVIRONMENT = {"environ", "environb", "getenv", "putenv", "unsetenv"}


def imports_serve(tree: ast.AST) -> bool:
    """Whether the name `serve` is bound to our package: Ray's users expect Ray's there."""
    return any(
        isinstance(node, ast.Import)
        and any(
            alias.asname is None and alias.name.partition(".")[0] == "serve" for alias in node.names
        )
        for node in ast.walk(tree)
    )


def environment_reads(tree: ast.AST) -> Iterator[int]:
    """Lines that use the process environment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
            if isinstance(node.value, ast.Name) and node.value.id == "os":
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            if ENVIRONMENT & {alias.name for alias in node.names}:
                yield node.lineno


def test_the_rules_see_what_they_forbid() -> None:
    assert imports_serve(ast.parse("def f():\n    import serve.app"))
    assert not imports_serve(ast.parse("from ray import serve\nfrom serve.app import x"))
    text = "import os\nos.environ['A']\nos.getenv('A')\nfrom os import environ"
    assert sorted(environment_reads(ast.parse(text))) == [2, 3, 4]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 600, "split the file: over 600 lines nobody reads it"
    assert text.isascii(), "ASCII only; write \\u escapes in test data"
    assert not imports_serve(tree), "write `from serve.x import y`: `import serve` hides Ray's"
    inside = path.relative_to(ROOT)
    if inside.parts[0] != "tests" and inside != Path("ironcliw/settings.py"):
        reads = list(environment_reads(tree))
        assert reads == [], f"lines {reads}: only ironcliw/settings.py reads the environment"
