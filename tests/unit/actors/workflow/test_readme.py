"""The workflow in the folder's README is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors import functions
from actors.submission_rules import check_functions
from actors.workflow.references import Scope
from actors.workflow.yaml_file import parse_definition
from ironcliw import PrimeModel

README = Path(__file__).parents[4] / "actors" / "README.md"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = dict(functions._registered)
    yield
    functions._registered.clear()
    functions._registered.update(before)


def blocks(language: str) -> list[str]:
    pattern = rf"```{language}\n(.*?)```"
    return re.findall(pattern, README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_is_read() -> None:
    found = blocks("yaml")
    assert len(found) == 1
    definition = parse_definition(found[0], "README.md")
    assert [step.name for step in definition.steps] == ["intent", "fetch", "answer"]
    assert definition.bind({"question": "why"}) == {"question": "why"}
    [module] = [block for block in blocks("python") if block.startswith("# knowledge.py")]
    exec(compile(module, str(README), "exec"), {"__name__": "knowledge"})
    check_functions(definition)
    for block in blocks("python"):
        compile(block, str(README), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("fetched", [None, "Invoices are sent on the first of each month."])
def test_the_example_answers_something(fetched: str | None) -> None:
    """Also where its look-up was skipped: the bundled model may end a bare prompt at once."""
    [_, _, answer] = parse_definition(blocks("yaml")[0], "README.md").steps
    scope = Scope({"question": "Where is my invoice?"}, {"fetch": fetched}.__getitem__)
    asked = answer.call.inputs.render(scope)
    with PrimeModel.from_pretrained(asked.pop("model")) as model:
        given = asked.pop("messages", None) or asked.pop("prompt")
        assert model.generate(given, raw=isinstance(given, str), **asked).strip()
