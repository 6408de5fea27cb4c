"""The Terraform files as Python values."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.requirements import need

FOLDER = Path(__file__).resolve().parents[4] / "cluster" / "deploy" / "terraform"
Block = dict[str, Any]


def read_blocks() -> dict[tuple[str, ...], Block]:
    """Every block by kind and labels, as `("resource", "google_compute_network", "cluster")`."""
    need(find_spec("hcl2"), "python-hcl2 is absent: pip install python-hcl2")
    hcl2 = importlib.import_module("hcl2")
    found: dict[tuple[str, ...], Block] = {}
    for path in sorted(FOLDER.glob("*.tf")):
        with path.open(encoding="utf-8") as text:
            parsed = _plain(hcl2.load(text))
        for kind, blocks in parsed.items():
            for block in blocks:
                for labels, body in _labelled(block, _LABELS.get(kind, 0)):
                    assert (kind, *labels) not in found, f"{kind} {labels} stands twice"
                    found[(kind, *labels)] = body
    return found


def texts(value: Any) -> Iterator[str]:
    """Every string in a value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


_LABELS = {"resource": 2, "variable": 1, "output": 1, "provider": 1}
_NOISE = ("__is_block__", "__comments__")


def _labelled(block: Block, count: int) -> Iterator[tuple[tuple[str, ...], Block]]:
    if count == 0:
        yield (), block
        return
    for label, inner in block.items():
        for rest, body in _labelled(inner, count - 1):
            yield (label, *rest), body


def _plain(value: Any) -> Any:
    """Without the quotes around strings, and the parser's own keys."""
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items() if k not in _NOISE}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r'^"(.*)"$', r"\1", value, flags=re.DOTALL)
    return value
