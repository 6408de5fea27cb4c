"""Adapters over HTTP: published, asked for by name, several at once, and pointed at by aliases.

The model is a random one, small, with a tokenizer of bytes; what peft merged is its own judge.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ironcliw import console
from ironcliw.adapters import PublishedAdapter, describe, publish
from serve.engines.decoders.fake import fake_tokenizer
from tests.contract.http_service import HttpService, running
from tests.unit.serve.command_line import run
from tests.unit.serve.decoders.small_adapters import peft_model, save_adapter
from tests.unit.serve.decoders.small_models import Case, make_case

LETTERS = [" A", " B", " C", " Yes", " No"]
PROMPT = "Once upon a time"


@dataclass(frozen=True)
class World:
    """A base, two adapters of it in folders, the first one merged, and a state directory."""

    case: Case
    state: Path
    folders: tuple[Path, Path]
    merged: Path

    @property
    def base(self) -> Path:
        return self.case.folder.path

    @property
    def models(self) -> dict[str, Any]:
        def model(folder: Path) -> dict[str, str]:
            return {"source": f"dir:{folder}", "task": "generation"}

        return {"tiny": model(self.base), "merged": model(self.merged)}

    def publish(self, name: str, number: int = 0, **changes: Any) -> PublishedAdapter:
        record = describe(
            self.folders[number], name=name, base="tiny", base_weights=self.base, metrics={}
        )
        values = {field: getattr(record, field) for field in record.__slots__} | changes
        return publish(self.state, PublishedAdapter(**values))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("adapters")
    case = make_case("llama", root / "base", vocab_size=270, max_position_embeddings=1024)
    tokenizer = fake_tokenizer()
    tokenizer.add_tokens(LETTERS)
    models = [peft_model(case, seed=seed, r=4 + 4 * seed) for seed in (0, 1)]
    folders = tuple(save_adapter(model, root / f"adapter-{i}") for i, model in enumerate(models))
    models[0].merge_and_unload().save_pretrained(root / "merged")
    for folder in ("base", "merged"):
        tokenizer.save(str(root / folder / "tokenizer.json"))
    return World(case, root / "state", (folders[0], folders[1]), root / "merged")


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[HttpService]:
    world.publish("support")
    world.publish("sales", 1)
    adapters = {
        "set": {"base": "tiny", "source": f"dir:{world.folders[1]}"},
        "gone": {"base": "tiny", "source": "dir:/nowhere"},
        "far": {"base": "tiny", "source": "s3://k:s@b/x?endpoint_override=127.0.0.1:9&scheme=http"},
        "other": {"base": "writer", "source": f"dir:{world.folders[0]}"},
    }
    with running(
        world.state, models=world.models, adapters=adapters, precision="float32"
    ) as service:
        yield service


@pytest.fixture
def client(server: HttpService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(server: HttpService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def answer(client: openai.OpenAI, model: str, prompt: str = PROMPT, **more: Any) -> str:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 24, **more}
    extra = {"ignore_eos": True}
    return client.completions.create(
        model=model, prompt=prompt, extra_body=extra, **options
    ).choices[0].text  # fmt: skip


def test_a_published_adapter_answers_as_the_merged_model(client: openai.OpenAI) -> None:
    under = answer(client, "tiny:support")
    assert under == answer(client, "merged")
    assert under != answer(client, "tiny")


def test_the_answer_says_which_version_gave_it(client: openai.OpenAI, http: httpx.Client) -> None:
    given = client.completions.create(model="tiny:support", prompt="a", max_tokens=2)
    assert given.model == "tiny:support@1"
    raw = http.post("/v1/completions", json={"model": "tiny:set", "prompt": "a"})
    assert raw.headers["x-ironcliw-model"] == raw.json()["model"] == "tiny:set"


def test_many_at_once_answer_as_each_does_alone(client: openai.OpenAI) -> None:
    models = ["tiny", "tiny:support", "tiny:sales", "tiny:set"] * 3
    alone = [answer(client, model, f"{PROMPT} {at}") for at, model in enumerate(models)]
    with ThreadPoolExecutor(len(models)) as pool:
        together = pool.map(
            lambda pair: answer(client, pair[1], f"{PROMPT} {pair[0]}"), enumerate(models)
        )
        assert list(together) == alone


def test_the_same_seed_gives_the_same_text(client: openai.OpenAI) -> None:
    drawn = [answer(client, "tiny:sales", seed=5, temperature=1.0) for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_a_decision_is_taken_under_an_adapter(http: httpx.Client) -> None:
    question = {
        "type": "choice",
        "instructions": "Which one?",
        "choices": [{"value": "red"}, {"value": "green"}, {"value": "blue"}],
    }
    given = [
        http.post("/v1/decisions", json={"model": m, "input": "a", "questions": [question]}).json()
        for m in ("tiny", "tiny:support", "merged")
    ]
    assert "answers" in given[1], given[1]
    assert given[1]["model"] == "tiny:support@1"
    base, under, merged = (one["answers"][0] for one in given)
    assert under != base
    assert under["choice"] == merged["choice"]
    assert under["confidence"] == pytest.approx(merged["confidence"], abs=1e-3)
    assert under["confidence"] != pytest.approx(base["confidence"], abs=1e-3)


def test_models_list_adapters_with_their_base(client: openai.OpenAI) -> None:
    rows = {row.id: row.model_dump() for row in client.models.list()}
    assert rows["tiny:support@1"]["parent"] == "tiny"
    assert rows["tiny:set"]["parent"] == "tiny"
    assert rows["tiny"]["parent"] is None


def test_it_is_loaded_and_unloaded_by_itself(http: httpx.Client) -> None:
    loaded = http.post("/v1/models/tiny:support/load").json()
    assert (loaded["id"], loaded["state"]) == ("tiny:support@1", "ready")
    base = http.get("/v1/models/tiny").json()
    assert 0 < loaded["resident_bytes"] < base["resident_bytes"]
    assert http.post("/v1/models/tiny:support/unload").json()["state"] == "absent"
    assert http.get("/v1/models/tiny").json()["state"] == "ready"


def test_unloading_a_base_unloads_its_adapters(client: openai.OpenAI, http: httpx.Client) -> None:
    answer(client, "tiny:set")
    assert http.post("/v1/models/tiny/unload").json()["state"] == "absent"
    assert http.get("/v1/models/tiny:set").json()["state"] == "absent"
    assert answer(client, "tiny:set") != answer(client, "tiny")


def test_a_new_version_is_served_at_once_and_the_old_one_by_its_number(
    client: openai.OpenAI, world: World
) -> None:
    world.publish("young", 0)
    first = answer(client, "tiny:young")
    world.publish("young", 1)
    assert answer(client, "tiny:young") == answer(client, "tiny:sales") != first
    world.publish("young", 1)
    assert client.models.retrieve("tiny:young@3").id == "tiny:young@3"
    assert client.models.retrieve("tiny:young").id == "tiny:young@3"
    assert answer(client, "tiny:young@1") == first


@pytest.mark.parametrize(
    ("model", "status", "code", "message"),
    [
        ("tiny:nobody", 404, "model_not_found", "no adapter 'nobody' of tiny; its adapters: tiny:"),
        ("tiny:support@7", 404, "model_not_found", "no adapter 'support@7' of tiny"),
        ("tiny:", 404, "model_not_found", "no adapter '' of tiny"),
        ("merged:support", 404, "model_not_found", "did you mean tiny:support@1?"),
        ("nothing:support", 404, "model_not_found", "no model 'nothing'"),
        ("tiny:gone", 400, "adapter_file_absent", "/nowhere/adapter_config.json is absent"),
        ("tiny:far", 400, "adapter_load_failed", "s3://b/x/adapter_config.json cannot be fetched"),
        ("writer:other", 501, "unsupported", "adapters are not computed"),
    ],
)
def test_what_cannot_be_served_is_named(
    http: httpx.Client, model: str, status: int, code: str, message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from ironcliw import adapter_sources
    from ironcliw.retries import Retry

    monkeypatch.setattr(adapter_sources, "RETRY", Retry(sleep=lambda seconds: None))
    given = http.post("/v1/completions", json={"model": model, "prompt": "a"})
    error = given.json()["error"]
    assert (given.status_code, error["code"]) == (status, code), error
    assert message in error["message"]


def test_an_adapter_of_other_weights_is_refused(http: httpx.Client, world: World) -> None:
    world.publish("stranger", base_digest="0" * 64)
    given = http.post("/v1/completions", json={"model": "tiny:stranger", "prompt": "a"})
    assert given.status_code == 400
    assert given.json()["error"]["code"] == "adapter_of_other_base"
    assert "was trained on other weights than tiny has here" in given.json()["error"]["message"]
    assert http.get("/v1/models/tiny:stranger").json()["state"] == "absent"


def test_damaged_files_are_refused_and_mended_ones_served(
    client: openai.OpenAI, http: httpx.Client, world: World
) -> None:
    kept = world.publish("fragile")
    file = Path(kept.source) / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    given = http.post("/v1/completions", json={"model": "tiny:fragile", "prompt": "a"})
    assert given.status_code == 400
    assert "they were damaged or replaced" in given.json()["error"]["message"]
    file.write_bytes(whole)
    assert answer(client, "tiny:fragile") == answer(client, "merged")


def test_one_damaged_record_hides_no_other(http: httpx.Client, world: World) -> None:
    kept = world.publish("broken-record")
    (Path(kept.source) / "adapter.json").write_text("{")
    given = http.post("/v1/completions", json={"model": "tiny:broken-record", "prompt": "a"})
    assert (given.status_code, given.json()["error"]["code"]) == (500, "store_error")
    assert "tiny:support@1" in {row["id"] for row in http.get("/v1/models").json()["data"]}
    shutil.rmtree(Path(kept.source).parent)


def promote(http: httpx.Client, alias: str, model: str, **more: Any) -> dict[str, Any]:
    given = http.post(f"/v1/aliases/{alias}/promote", json={"model": model, **more})
    assert given.status_code == 200, given.text
    found: dict[str, Any] = given.json()
    return found


def answered_by(client: openai.OpenAI, alias: str, user: str) -> str:
    given = client.completions.create(model=alias, prompt="a", max_tokens=1, user=user)
    return given.model


def test_an_alias_is_promoted_tried_and_rolled_back(
    client: openai.OpenAI, http: httpx.Client
) -> None:
    assert promote(http, "helper", "tiny:support")["model"] == "tiny:support@1"
    assert answer(client, "helper") == answer(client, "tiny:support")
    assert http.get("/v1/models/helper").json()["parent"] == "tiny:support@1"

    tried = promote(http, "helper", "tiny:sales", percent=30)
    assert (tried["model"], tried["canary"]) == ("tiny:support@1", "tiny:sales@1")
    users = [f"user-{number}" for number in range(60)]
    sides = {user: answered_by(client, "helper", user) for user in users}
    assert set(sides.values()) == {"tiny:support@1", "tiny:sales@1"}
    assert 8 <= list(sides.values()).count("tiny:sales@1") <= 28
    assert all(answered_by(client, "helper", user) == side for user, side in sides.items())

    assert promote(http, "helper", "tiny:sales")["canary"] is None
    assert answered_by(client, "helper", "user-1") == "tiny:sales@1"
    back = http.post("/v1/aliases/helper/rollback").json()
    assert (back["model"], back["canary"]) == ("tiny:support@1", None)
    assert answered_by(client, "helper", "user-1") == "tiny:support@1"
    listed = http.get("/v1/aliases").json()["data"]
    assert "helper" in [row["id"] for row in listed]


def test_another_ingress_sees_a_change_within_two_seconds(
    server: HttpService, world: World, http: httpx.Client
) -> None:
    promote(http, "seen", "tiny:support")
    with running(world.state, models=world.models, precision="float32") as second:
        url = f"{second.url}/v1/aliases"
        assert "seen" in [row["id"] for row in httpx.get(url).json()["data"]]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("new/promote", {"model": "nobody"}, 404, "no model 'nobody'"),
        ("new/promote", {"model": "tiny", "percent": 5}, 400, "stands for nothing yet"),
        ("new/promote", {"model": "tiny", "percent": 0}, 400, "greater than 0"),
        ("tiny/promote", {"model": "merged"}, 409, "'tiny' is a model of the catalogue"),
        ("a:b/promote", {"model": "tiny"}, 400, "is no name for an alias"),
        ("nobody/rollback", {}, 404, "no alias 'nobody'; known aliases: "),
    ],
)
def test_what_no_alias_can_be_is_refused(
    http: httpx.Client, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    given = http.post(f"/v1/aliases/{path}", json=body)
    assert given.status_code == status
    assert message in given.json()["error"]["message"]


def test_there_is_no_way_back_from_the_first(http: httpx.Client) -> None:
    promote(http, "only", "tiny")
    given = http.post("/v1/aliases/only/rollback")
    assert given.status_code == 409
    assert "has stood for tiny from the beginning" in given.json()["error"]["message"]
    assert http.post("/v1/aliases/two/promote", json={"model": "only"}).status_code == 400


def test_the_command_line_promotes_and_rolls_back(
    server: HttpService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IRONCLIW_CLIENT__BASE_URL", server.url)
    assert run("models", "promote", "word", "tiny:support") == 0
    assert "word stands for tiny:support@1" in capsys.readouterr().out
    assert run("models", "promote", "word", "tiny:sales", "--percent", "12.5") == 0
    assert "; 12.5 % of the requests go to tiny:sales@1" in capsys.readouterr().out
    assert run("models", "aliases") == 0
    listed = capsys.readouterr().out
    assert "word" in listed and "12.5 %" in listed
    assert run("models", "rollback", "word", "--json") == 0
    assert json.loads(capsys.readouterr().out)["canary"] is None
    assert run("models", "load", "tiny:support") == 0
    assert "tiny:support@1 is ready" in capsys.readouterr().out
    assert run("models", "promote", "word", "nobody") == console.EXIT_BAD_REQUEST
