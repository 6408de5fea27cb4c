"""The workflow in the folder's README is one."""

from __future__ import annotations

import re
from pathlib import Path

from actors.workflow.yaml_file import parse_definition

README = Path(__file__).parents[4] / "actors" / "README.md"


def test_the_example_is_read() -> None:
    found = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1
    definition = parse_definition(found[0], "README.md")
    assert [step.name for step in definition.steps] == ["intent", "fetch", "answer"]
    assert definition.bind({"question": "why"}) == {"question": "why"}
