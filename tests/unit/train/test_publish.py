"""A real run of a tiny model, published, refused and forced."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ironcliw.adapters import published, versions
from ironcliw.cli import main
from ironcliw.errors import SettingsError, TrainingError
from ironcliw.settings import Settings
from tests.unit.train.embedding.encoders import grouped, labelled_texts
from tests.unit.train.evaluation.rows_of_text import TOKENIZER, make_text_model, text_rows
from tests.unit.train.tiny import make_job
from train.config import make_config
from train.job import Job
from train.publish import check_publishing, publish_run
from train.run_files import CONFIG, RunFiles
from train.worker import work

ROWS = text_rows([("one and two", "3"), ("two and two", "4"), ("one and one", "2")])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_model(tmp_path_factory.mktemp("model"))


def run(folder: Path, model: Path, **changes: Any) -> Job:
    """A finished run of a model that the catalogue calls `tiny`."""
    made = make_job(folder, model, **{"num_epochs": 4, **changes})
    settings = Settings.model_validate(
        {
            "state_dir": folder / "state",
            "models": {"tiny": {"source": f"dir:{model}", "task": "generation"}},
        }
    )
    config = made.config.model_copy(update={"model_name": "tiny"})
    job = dataclasses.replace(
        made, config=config, settings=settings, train=ROWS, held_out=ROWS, tokenizer=TOKENIZER
    )
    files = RunFiles(job.uri)
    files.write(CONFIG, {"config": config.model_dump(mode="json"), "numbers": {}})
    work(job)
    return job


def test_a_better_adapter_is_published_once(tmp_path: Path, model: Path) -> None:
    job = run(tmp_path, model)
    record = publish_run(job.uri, "sums", job.settings)
    assert (record.model_id, record.version, record.forced) == ("tiny:sums", 1, False)
    assert record.metrics["after"]["eval_loss"] < record.metrics["before"]["eval_loss"]
    assert (Path(record.source) / "adapter_model.safetensors").is_file()
    # shown again, as `train sft` of a finished run does
    assert publish_run(job.uri, "sums", job.settings) == record
    assert publish_run(job.uri, "other", job.settings).version == 1
    assert published(job.settings.state_dir).keys() == {"sums", "other"}
    page = (Path(job.uri) / "evaluation.md").read_text()
    assert "may be published" in page
    written = json.loads((Path(job.uri) / "evaluation.json").read_text())
    assert written["gate"]["passed"] is True


def test_a_chat_template_of_its_own_is_told_to_be_left_behind(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = run(tmp_path, model)
    publish_run(job.uri, "sums", job.settings)
    assert not caplog.records
    files = RunFiles(job.uri)
    begun = files.read(CONFIG)
    assert begun is not None
    begun["config"]["data"]["chat_template"] = "plain.jinja"
    files.write(CONFIG, begun)
    publish_run(job.uri, "sums", job.settings)
    assert "tiny:sums is served with that of tiny, which may write other tokens" in caplog.text


def test_the_result_is_put_together_where_there_is_room(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights of a model may be more than the folder for what is temporary holds."""
    import transformers

    folders: list[Path] = []
    save = transformers.LlamaForCausalLM.save_pretrained

    def spied(self: Any, folder: Path, **options: Any) -> None:
        folders.append(Path(folder))
        save(self, folder, **options)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", spied)
    job = run(tmp_path, model, use_lora=False, max_steps=1)
    assert folders and folders[0].is_relative_to(job.settings.state_dir)
    assert not folders[0].exists()
    assert (Path(job.uri) / "model" / "model.safetensors").is_file()


def test_a_worse_one_is_kept_back_unless_forced(tmp_path: Path, model: Path) -> None:
    job = run(tmp_path, model)
    files = RunFiles(job.uri)
    outcome = files.read("outcome.json")
    assert outcome is not None
    files.write("outcome.json", {**outcome, "gate": {**outcome["gate"], "after": 9.125}})
    with pytest.raises(TrainingError, match="is not published: it is worse than its base") as told:
        publish_run(job.uri, "sums", job.settings)
    assert f"went from {outcome['gate']['before']:.4f} to 9.1250" in told.value.message
    assert "--force" in told.value.message
    assert not published(job.settings.state_dir)
    forced = publish_run(job.uri, "sums", job.settings, force=True)
    assert forced.forced
    assert versions(job.settings.state_dir, "sums") == (forced,)


def test_what_cannot_be_published(tmp_path: Path, model: Path) -> None:
    job = run(tmp_path, model)
    with pytest.raises(SettingsError, match="holds no finished run"):
        publish_run(str(tmp_path / "none"), "sums", job.settings)
    other = Settings(state_dir=tmp_path / "state")
    with pytest.raises(SettingsError, match="for a model of the catalogue, and model_name is 'ti"):
        publish_run(job.uri, "sums", other)
    changed = make_text_model(tmp_path / "changed", seed=7)
    models = {"tiny": {"source": f"dir:{changed}", "task": "generation"}}
    settings = Settings.model_validate({"state_dir": tmp_path / "state", "models": models})
    with pytest.raises(TrainingError, match="its files were changed since"):
        publish_run(job.uri, "sums", settings, force=True)


def test_what_could_not_be_published_is_refused_before_the_run(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    known = make_config({"model_name": "SmolLM2-135M-Instruct", "publish": "bot"}, "test")
    check_publishing(known, ROWS, settings)
    with pytest.raises(SettingsError, match="and no row is held out"):
        check_publishing(known, None, settings)
    with pytest.raises(SettingsError, match="model_name is '/some/folder'"):
        check_publishing(known.model_copy(update={"model_name": "/some/folder"}), ROWS, settings)
    with pytest.raises(SettingsError, match="is no name for an adapter"):
        make_config({"model_name": "x", "publish": "../up"}, "test")
    with pytest.raises(SettingsError, match="adapters alone are published"):
        make_config({"model_name": "x", "publish": "a", "use_lora": False}, "test")


def test_a_gate_that_cannot_be_measured_is_refused_before_the_run(tmp_path: Path) -> None:
    given = {"model_name": "x", "embedding": {}, "evaluation": {"gate": "prototype_accuracy"}}
    wanted, settings = make_config(given, "test"), Settings(state_dir=tmp_path)
    check_publishing(wanted, labelled_texts(12), settings)
    pairs = grouped([[2, 4, 3], [2, 5, 3]], [[2, 6, 3], [2, 7, 3]])
    # four texts of four labels
    for rows in (pairs, labelled_texts(4), grouped()):
        with pytest.raises(SettingsError, match=r"no two of the held-out rows .* same label"):
            check_publishing(wanted, rows, settings)


def test_the_command(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = run(tmp_path, model)
    monkeypatch.setattr("ironcliw.console.command_settings", lambda: job.settings)
    with pytest.raises(SystemExit) as ended:
        main(["train", "publish", job.uri, "sums", "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["version"] == 1
    with pytest.raises(SystemExit) as ended:
        main(["train", "publish", "nothing", "sums"])
    assert ended.value.code
    assert "train/nothing holds no finished run" in capsys.readouterr().err
