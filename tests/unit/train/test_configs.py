"""The examples in train/configs can be run as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ironcliw.catalog import Catalog
from ironcliw.settings import Settings
from tests.unit.train.small_tokenizers import small
from train.comparison.config import read_comparison
from train.config import read_config
from train.data.read import read_data
from train.embedding.tokenizer import EncoderTokenizer
from train.sweep.config import read_sweep
from train.sweep.points import points

CONFIGS = Path(__file__).parents[3] / "train" / "configs"
# what is no run: a comparison, and a sweep
OTHERS = {"eval.yaml", "tune.yaml"}
ALL = sorted(path for path in CONFIGS.glob("*.yaml") if path.name not in OTHERS)


def test_there_are_some() -> None:
    assert {"sft.yaml", "full.yaml", "prime-7b-chat.yaml", "embed.yaml"} <= {
        path.name for path in ALL
    }


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_it_is_valid_and_its_data_are_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parents[1])
    config = read_config(path)
    assert config.model_name in Catalog({})
    if config.embedding is not None:
        prepared = read_data(
            config.data, EncoderTokenizer.load_encoder(config.model_name, Settings())
        )
    else:
        # a byte is a token of the small tokenizer, so that rows are longer
        options = config.data.model_copy(update={"max_length": 4096})
        prepared = read_data(options, small())
    assert prepared.report.rows == 20
    assert prepared.eval is not None
    assert len(prepared.train) + len(prepared.eval) == 20


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_what_is_commented_out_is_valid_too(path: Path, tmp_path: Path) -> None:
    # as `# name: support-bot`
    whole = re.sub(r"(?m)^( *)# (\w+: \S+)", r"\1\2", path.read_text())
    (tmp_path / "run.yaml").write_text(whole)
    assert read_config(tmp_path / "run.yaml").data == read_config(path).data


def test_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parents[1])
    config = read_comparison(CONFIGS / "eval.yaml")
    assert config.model_name in Catalog({})
    for suite in config.suites:
        options = suite.data.model_copy(update={"max_length": 4096})
        assert len(read_data(options, small()).train) == 20


def test_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parents[1])
    config = read_sweep(CONFIGS / "tune.yaml")
    made = [config.trial(point) for point in points(config)]
    assert len(made) == config.samples
    # asha decides at the ends of epochs
    assert {each.num_epochs for each in made} == {3}
    assert len({each.learning_rate for each in made}) == config.samples
