"""Adapters merged into their bases, and what is not merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ironcliw.cli import main
from ironcliw.errors import SettingsError
from tests.unit.train.evaluation.rows_of_text import TOKENIZER, encoded, make_text_model
from tests.unit.train.test_publish import run
from train.config import make_config
from train.merge import merge_run
from train.publish import publish_run
from train.tokenizer import TrainingTokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer(make_text_model(tmp_path_factory.mktemp("model")))


def with_tokenizer(folder: Path) -> Path:
    TOKENIZER.transformers().save_pretrained(folder)
    return folder


# peft 0.21 asks transformers 5 for a property by its old name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("use_dora", [False, True])
def test_a_merged_model_says_what_base_and_adapter_say(
    use_dora: bool, tmp_path: Path, model: Path
) -> None:
    import peft
    import transformers

    job = run(tmp_path, model, use_dora=use_dora, learning_rate=3e-2)
    made = merge_run(job.uri, tmp_path / "merged", job.settings)
    tokens = torch.tensor([encoded("one and two")])
    auto = transformers.AutoModelForCausalLM
    with torch.no_grad():
        merged = auto.from_pretrained(made)(tokens).logits
        base = auto.from_pretrained(model)
        before = base(tokens).logits.clone()
        adapted = peft.PeftModel.from_pretrained(base, f"{job.uri}/adapter")(tokens).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)
    assert TrainingTokenizer.load(str(made), job.settings).encode(["a"], special=False) == [
        encoded("a")
    ]
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_a_merged_model_has_the_precision_of_the_bases_files(tmp_path: Path) -> None:
    import transformers

    made = with_tokenizer(make_text_model(tmp_path / "model"))
    whole = transformers.AutoModelForCausalLM.from_pretrained(made)
    whole.to(torch.bfloat16).save_pretrained(made)
    job = run(tmp_path, made, num_epochs=1)
    merged = merge_run(job.uri, tmp_path / "merged", job.settings)
    kinds = {each.dtype for each in load_file(merged / "model.safetensors").values()}
    assert kinds == {torch.bfloat16}


def test_what_is_not_merged(tmp_path: Path, model: Path) -> None:
    job = run(tmp_path, model, num_epochs=1, use_lora=False)
    with pytest.raises(SettingsError, match=r"has trained all weights: .*model is no adapter"):
        merge_run(job.uri, tmp_path / "merged", job.settings)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(SettingsError, match="full holds something already; name a folder"):
        merge_run(job.uri, tmp_path / "full", job.settings)
    with pytest.raises(SettingsError, match="none holds no finished run"):
        merge_run(str(tmp_path / "none"), tmp_path / "merged", job.settings)


def test_dora_is_refused_where_it_would_be_published(tmp_path: Path, model: Path) -> None:
    job = run(tmp_path, model, num_epochs=1, use_dora=True)
    with pytest.raises(SettingsError, match=r"is DoRA's, .* `ironcliw train merge .*run FOLDER`"):
        publish_run(job.uri, "sums", job.settings, force=True)
    with pytest.raises(SettingsError, match="DoRA is not served beside other adapters; train wi"):
        make_config({"model_name": "x", "publish": "a", "use_dora": True}, "test")


def test_the_command(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = run(tmp_path, model, num_epochs=1)
    monkeypatch.setattr("ironcliw.console.command_settings", lambda: job.settings)
    with pytest.raises(SystemExit) as ended:
        main(["train", "merge", job.uri, str(tmp_path / "merged"), "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "merged")}
    assert (tmp_path / "merged" / "model.safetensors").is_file()
