"""Rows are measured by the template that is asked for, and not by another one unasked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import SettingsError
from ironcliw.settings import Settings
from tests.unit.train.export.models import make_adapter, make_base
from train.comparison import run as comparing
from train.comparison.config import ComparisonConfig
from train.comparison.run import compare
from train.config_file import validated
from train.export.source import Source

OWN = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"after {n}"},
            {"role": "assistant", "content": f"is {n + 1}"},
        ]
    }
    for n in range(4)
]


def asked(root: Path, template: str | None) -> ComparisonConfig:
    suite: dict[str, Any] = {
        "name": "chats",
        "data": {"train": [str(root / "rows.jsonl")], "max_length": 96, "chat_template": template},
    }
    given = {
        "model_name": str(root / "base"),
        "precision": "fp32",
        "micro_batch_tokens": 128,
        "adapters": {"one": str(root / "one")},
        "suites": [suite],
    }
    return validated(ComparisonConfig, given, "test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_adapter(tmp_path / "one", make_base(tmp_path / "base"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def trained_with(template: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the adapter were that of a run with its own template."""
    real = comparing._adapter

    def found(source: Source, base: str, settings: Settings) -> Source:
        config = {"data": {"chat_template": template}}
        return replace(real(source, base, settings), config=config)

    monkeypatch.setattr(comparing, "_adapter", found)


def test_the_suites_template_makes_its_tokens(root: Path) -> None:
    settings = Settings(state_dir=root / "state")
    own, other = (compare(asked(root, each), settings)[0] for each in (None, OWN))
    assert own.digest != other.digest
    assert own.measures["base"]["eval_loss"] != other.measures["base"]["eval_loss"]


def test_an_adapter_of_another_template_is_not_measured_unasked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(state_dir=root / "state")
    trained_with(OWN, monkeypatch)
    with pytest.raises(SettingsError, match=r"adapter one .* template of its own, .*suite 'chats'"):
        compare(asked(root, None), settings)
    assert compare(asked(root, OWN), settings)[0].rows == 4


def test_a_template_that_changes_no_token_does_not_matter(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = json.loads((root / "base" / "tokenizer_config.json").read_text())["chat_template"]
    trained_with(base, monkeypatch)
    assert compare(asked(root, None), Settings(state_dir=root / "state"))[0].rows == 4
