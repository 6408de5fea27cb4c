"""A base and two adapters on answers and on preferences, with a real tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironcliw.cli import main
from ironcliw.errors import AdapterError, SettingsError
from ironcliw.settings import Settings
from tests.unit.train.export.models import make_adapter, make_base
from train.comparison.config import ComparisonConfig, read_comparison
from train.comparison.run import SuiteResult, compare
from train.config_file import validated
from train.data.read import read_data
from train.tokenizer import TrainingTokenizer

ANSWERS = [{"prompt": f"the number after {n}", "completion": f"is {n + 1}"} for n in range(6)]
PAIRS = [
    {"prompt": f"the number after {n}", "chosen": f"is {n + 1}", "rejected": f"was {n}"}
    for n in range(6)
]


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("comparison")
    base = make_base(root / "base")
    make_adapter(root / "one", base)
    make_adapter(root / "two", base, r=2, use_rslora=True)
    write(root / "answers.jsonl", ANSWERS)
    write(root / "pairs.jsonl", PAIRS)
    return root


def asked(folder: Path, **changes: Any) -> ComparisonConfig:
    given = {
        "model_name": str(folder / "base"),
        "precision": "fp32",
        "micro_batch_tokens": 128,
        "adapters": {"one": str(folder / "one"), "two": str(folder / "two")},
        "suites": [
            {
                "name": "answers",
                "data": {"train": [str(folder / "answers.jsonl")], "max_length": 64},
                "evaluation": {"metrics": ["exact_match", "decision_accuracy"]},
            },
            {
                "name": "pairs",
                "data": {"train": [str(folder / "pairs.jsonl")], "max_length": 64},
            },
        ],
        **changes,
    }
    return validated(ComparisonConfig, given, "test")


def answer_logprob(model: Any, folder: Path, row: int) -> float:
    """By transformers alone, one row at a time."""
    settings = Settings(state_dir=folder)
    options = asked(folder).suites[0].data
    data = read_data(options, TrainingTokenizer.load(str(folder / "base"), settings)).train
    found = data.row(row)
    with torch.no_grad():
        logits = model(torch.from_numpy(found.tokens.astype(np.int64))[None]).logits[0].float()
    chosen = torch.log_softmax(logits, -1)[:-1].gather(
        1, torch.from_numpy(found.tokens[1:].astype(np.int64))[:, None]
    )[:, 0]
    return float(chosen[torch.from_numpy(found.supervised[1:].copy())].sum())


# peft 0.21 asks transformers 5 for a property by its old name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_every_candidate_on_every_suite(folder: Path, tmp_path: Path) -> None:
    import peft
    import transformers

    said: list[str] = []
    answers, pairs = compare(asked(folder), Settings(state_dir=tmp_path), said.append)
    assert said[0].endswith("with 2 adapters")
    assert len(said) == 1 + 2 * 3
    assert (answers.kind, answers.rows, pairs.kind, pairs.rows) == ("answers", 6, "preferences", 6)
    assert list(answers.measures) == ["base", "one", "two"]
    assert set(answers.measures["one"]) == {
        "eval_loss",
        "perplexity",
        "exact_match",
        "decision_accuracy",
    }
    losses = {name: found["eval_loss"] for name, found in answers.measures.items()}
    assert len(set(losses.values())) == 3
    # against transformers and peft by themselves, row by row
    loader: Any = transformers.AutoModelForCausalLM
    base = loader.from_pretrained(folder / "base")
    theirs = [answer_logprob(base, folder, row) for row in range(6)]
    other = peft.PeftModel.from_pretrained(base, str(folder / "one"))
    ours = [answer_logprob(other, folder, row) for row in range(6)]
    found = answers.win_rates["one", "base"]
    assert found.wins == sum(a > b for a, b in zip(ours, theirs, strict=True))
    assert found.margin == pytest.approx((sum(ours) - sum(theirs)) / 6, rel=1e-3)
    opposite = answers.win_rates["base", "one"]
    assert math.isclose(found.rate + opposite.rate, 1.0)
    assert set(pairs.measures["base"]) == {"preference_accuracy", "preference_margin"}
    # a margin is that of the sums of the log-probabilities
    rate = pairs.win_rates["two", "base"]
    change = (
        pairs.measures["two"]["preference_margin"] - pairs.measures["base"]["preference_margin"]
    )
    assert rate.margin == pytest.approx(change, rel=1e-6)


def test_an_adapter_changes_nothing_of_the_others(folder: Path, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)

    def only(*names: str) -> SuiteResult:
        adapters = {name: str(folder / name) for name in names}
        return compare(asked(folder, adapters=adapters), settings)[0]

    together = only("one", "two").measures
    assert together["base"] == only().measures["base"]
    assert together["two"] == only("two").measures["two"]


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    suite = asked(folder).suites[1].model_dump()
    suite["evaluation"]["metrics"] = ["exact_match"]
    with pytest.raises(SettingsError, match=r"'pairs' has preferences and the metrics"):
        compare(asked(folder, suites=[suite]), settings)
    with pytest.raises(SettingsError, match=r"row of \d+ tokens, more than micro_batch_tokens, 16"):
        compare(asked(folder, micro_batch_tokens=16), settings)
    with pytest.raises(SettingsError, match="is a model, not an adapter"):
        compare(asked(folder, adapters={"one": str(folder / "base")}), settings)
    other = make_base(tmp_path / "other", hidden_size=32)
    with pytest.raises(AdapterError, match=r"is no adapter of .*other"):
        compare(asked(folder, model_name=str(other)), settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suites": []}, "suites"),
        ({"adapters": {"base": "x"}}, "and not 'base'"),
        ({"adapters": {"a.b": "x"}}, r"adapters has the name 'a\.b'"),
        ({"suites": [{"name": "s", "data": {}}]}, "suite 's' has no files"),
        (
            {"suites": [{"name": "s", "data": {"train": ["x"], "eval_share": 0.5}}]},
            "suite 's' holds rows out",
        ),
        ({"suites": [{"name": "s", "data": {"train": ["x"]}}] * 2}, "two suites are called 's'"),
        ({"suites": [{"name": "a|b", "data": {"train": ["x"]}}]}, r"suites\.0\.name: .*pattern"),
        ({"suite": []}, "did you mean 'suites'"),
        ({"suites": [{"name": "s", "data": {"trian": ["x"]}}]}, "did you mean 'train'"),
    ],
)
def test_configurations_that_cannot_be(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        asked(folder, **changes)


def test_the_command(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "eval.yaml"
    # YAML reads JSON
    file.write_text(json.dumps({**asked(folder).model_dump(mode="json"), "adapters": {}}))
    assert read_comparison(file).candidates == ("base",)
    words = ["train", "eval", "--config", str(file), "--adapter", f"bot={folder / 'one'}"]
    words += ["--output", str(tmp_path / "report")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert not ended.value.code
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert printed["suites"] == written["suites"]
    assert written["format_version"] == 1
    page = (tmp_path / "report" / "report.md").read_text()
    loss = written["suites"][0]["measures"]["bot"]["eval_loss"]
    assert f"| bot | {loss:.4f} (" in page
    assert "| bot | base | " in page
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    assert "candidate" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([*words, "--adapter", "nothing"])
    assert ended.value.code == 4
    assert "write NAME=WHERE" in capsys.readouterr().err
