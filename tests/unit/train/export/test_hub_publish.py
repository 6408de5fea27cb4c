"""A real run of a tiny model on a Hub that is a server on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.utils._http
import pytest
import yaml

from ironcliw.cli import main
from ironcliw.errors import RequestError, SettingsError, TrainingError
from ironcliw.settings import Settings
from tests.unit.train.embedding.encoders import embed_job, make_encoder
from tests.unit.train.evaluation.rows_of_text import make_text_model
from tests.unit.train.export.hub_server import TOKEN, Hub, serve_hub
from tests.unit.train.test_publish import run
from train.export.hub_publish import publish_to_hub
from train.job import Job
from train.run_files import CONFIG, RunFiles
from train.worker import work

# huggingface_hub 2.4 gives its own HTTP client a file in a way that is about to change
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with serve_hub() as server:
        yield server
    huggingface_hub.utils._http.close_session()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_model(tmp_path_factory.mktemp("model"))


def licensed(job: Job, model: Path) -> Settings:
    """The catalogue says under which licence the base is."""
    entry = {"source": f"dir:{model}", "task": "generation", "licence": "Apache-2.0"}
    return Settings.model_validate({"state_dir": job.settings.state_dir, "models": {"tiny": entry}})


def test_an_adapter_and_its_page(tmp_path: Path, model: Path, hub: Hub) -> None:
    job = run(tmp_path, model)
    done = publish_to_hub(job.uri, "me/sums", licensed(job, model), endpoint=hub.url)
    repository = hub.repositories["me/sums"]
    assert done.private
    assert set(repository.files) == {
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    # peft wrote a path of this machine
    config = json.loads(repository.files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "tiny"
    page = repository.files["README.md"].decode()
    assert str(tmp_path) not in page
    _, head, text = page.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "peft"
    outcome = RunFiles(job.uri).read("outcome.json")
    assert outcome is not None
    before, after = outcome["before"]["eval_loss"], outcome["evaluation"]["eval_loss"]
    assert f"| loss | {before:.4f} | {after:.4f} |" in text
    assert outcome["model_digest"] in text
    assert "LoRA, rank 4, alpha 32" in text
    assert "published under Apache-2.0" in text


def test_a_bundled_base_is_named_as_the_hub_knows_it(
    tmp_path: Path, model: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft loads an adapter's base by that name."""
    name = "SmolLM2-135M-Instruct"
    job = run(tmp_path, model)
    files = RunFiles(job.uri)
    begun = files.read(CONFIG)
    assert begun is not None
    begun["config"]["model_name"] = name
    files.write(CONFIG, begun)
    # in place of its weights
    monkeypatch.setattr("train.export.source.model_folder", lambda *given: model)
    publish_to_hub(job.uri, "me/sums", job.settings, endpoint=hub.url)
    found = hub.repositories["me/sums"].files
    config = json.loads(found["adapter_config.json"])
    assert config["base_model_name_or_path"] == f"HuggingFaceTB/{name}"
    page = found["README.md"].decode()
    assert yaml.safe_load(page.split("---\n")[1])["base_model"] == f"HuggingFaceTB/{name}"
    assert "as a GGUF file has them (Q4_1)" in page


@pytest.mark.parametrize("merged", [False, True])
def test_the_chat_template_that_it_was_trained_with_goes_along(
    merged: bool, tmp_path: Path, model: Path, hub: Hub
) -> None:
    job = run(tmp_path, model)
    template = tmp_path / "plain.jinja"
    template.write_text("{{ messages[0].content }} =")
    files = RunFiles(job.uri)
    begun = files.read(CONFIG)
    assert begun is not None
    begun["config"]["data"]["chat_template"] = str(template)
    files.write(CONFIG, begun)
    settings = licensed(job, model)
    publish_to_hub(job.uri, "me/sums", settings, endpoint=hub.url, merged=merged)
    found = hub.repositories["me/sums"].files
    assert found["chat_template.jinja"] == template.read_bytes()
    page = found["README.md"].decode()
    assert "| chat template | of its own: `chat_template.jinja` |" in page
    assert str(tmp_path) not in page


def test_merged(tmp_path: Path, model: Path, hub: Hub) -> None:
    job = run(tmp_path, model)
    publish_to_hub(job.uri, "me/sums", licensed(job, model), endpoint=hub.url, merged=True)
    files = hub.repositories["me/sums"].files
    assert {"model.safetensors", "config.json", "merged.json", "README.md"} <= files.keys()
    assert "adapter_config.json" not in files
    assert b"library_name: transformers" in files["README.md"]
    assert not any(str(tmp_path).encode() in content for content in files.values())


def test_an_encoder_with_the_folders_in_its_own(tmp_path: Path, hub: Hub) -> None:
    model = make_encoder(tmp_path / "models" / "encoder")
    job = embed_job(tmp_path, model, use_lora=False, max_steps=2, embedding={"matryoshka": [16]})
    work(job)
    config = job.config.model_dump(mode="json")
    RunFiles(job.uri).write(CONFIG, {"config": config, "numbers": {}})
    publish_to_hub(job.uri, "me/texts", job.settings, endpoint=hub.url, licence="mit", force=True)
    files = hub.repositories["me/texts"].files
    assert {"model.safetensors", "modules.json", "1_Pooling/config.json"} <= files.keys()
    trained = (Path(job.uri) / "model" / "model.safetensors").read_bytes()
    assert files["model.safetensors"] == trained
    head, text = files["README.md"].decode().split("---\n", 2)[1:]
    metadata = yaml.safe_load(head)
    assert metadata["library_name"] == "sentence-transformers"
    assert metadata["pipeline_tag"] == "sentence-similarity"
    assert "sft" not in metadata["tags"]
    assert "vectors of texts that belong together" in text
    assert "| retrieval accuracy of 16 dimensions |" in text


def test_a_worse_one_says_so(tmp_path: Path, model: Path, hub: Hub) -> None:
    job = run(tmp_path, model)
    files = RunFiles(job.uri)
    outcome = files.read("outcome.json")
    assert outcome is not None
    files.write("outcome.json", {**outcome, "gate": {**outcome["gate"], "after": 9.125}})
    settings = licensed(job, model)
    with pytest.raises(TrainingError, match="is not published: it is worse than its base"):
        publish_to_hub(job.uri, "me/sums", settings, endpoint=hub.url)
    assert not hub.asked
    publish_to_hub(job.uri, "me/sums", settings, endpoint=hub.url, force=True)
    assert b"published all the same" in hub.repositories["me/sums"].files["README.md"]


def test_what_is_refused_before_anything_is_asked(tmp_path: Path, model: Path, hub: Hub) -> None:
    job = run(tmp_path, model)
    with pytest.raises(SettingsError, match=r"licence of tiny is not known.*give --licence"):
        publish_to_hub(job.uri, "me/sums", job.settings, endpoint=hub.url)
    settings = licensed(job, model)
    with pytest.raises(RequestError, match="write OWNER/NAME"):
        publish_to_hub(job.uri, "sums", settings, endpoint=hub.url)
    with pytest.raises(SettingsError, match="is no run; name one"):
        publish_to_hub(str(model), "me/sums", settings, endpoint=hub.url)
    assert not hub.asked


def test_the_command(
    tmp_path: Path,
    model: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = run(tmp_path, model)
    monkeypatch.setattr("ironcliw.console.command_settings", lambda: job.settings)
    # what HF_ENDPOINT says when the library is imported
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)

    def told(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["train", "publish", job.uri, *words])
        return int(ended.value.code or 0)

    assert told("--hub", "me/sums", "--licence", "mit", "--public", "--json") == 0
    assert json.loads(capsys.readouterr().out)["hub"] == f"{hub.url}/me/sums"
    assert not hub.repositories["me/sums"].private
    assert told("--hub", "me/sums", "--licence", "mit") == 4
    assert "give --replace" in capsys.readouterr().err
    assert told() == 4
    assert "nowhere to publish to" in capsys.readouterr().err
    assert told("bot", "--merged") == 4
    assert "belong to --hub" in capsys.readouterr().err
