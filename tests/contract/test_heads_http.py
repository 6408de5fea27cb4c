"""Encoder adapters, published heads and cascades over HTTP.

The encoder is a random one, small, with a tokenizer of words; peft and the formula are the judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from safetensors.numpy import save_file

from ironcliw.adapters import describe, publish
from ironcliw.head_record import BIAS, WEIGHT, WEIGHTS_FILE, HeadRecord
from tests.contract.http_service import HttpService, running
from tests.unit.serve.lora_encoders import merged, save_adapter
from tests.unit.train.embedding.encoders import make_encoder

LABELS = ("one", "two", "three")
TEXTS = {"w5 w6": [2, 5, 6, 3], "w40": [2, 40, 3], "w7 w8 w9": [2, 7, 8, 9, 3]}


@dataclass(frozen=True)
class World:
    """An encoder, two adapters of it, and a head over its vectors."""

    state: Path
    base: Path
    adapters: tuple[Path, Path]
    head: Path

    def publish(self, folder: Path, name: str) -> None:
        record = describe(folder, name=name, base="tiny", base_weights=self.base, metrics={})
        publish(self.state, record)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("heads")
    base = make_encoder(root / "base")
    adapters = (save_adapter(base, root / "a", 0), save_adapter(base, root / "b", 1))
    head = root / "head"
    head.mkdir()
    HeadRecord(LABELS, 32, 0.25).write(head)
    random = np.random.default_rng(0)
    weight = random.normal(size=(3, 32)).astype(np.float32)
    save_file({WEIGHT: weight, BIAS: np.zeros(3, np.float32)}, head / WEIGHTS_FILE)
    return World(root / "state", base, adapters, head)


@pytest.fixture(scope="module")
def http(world: World) -> Iterator[httpx.Client]:
    world.publish(world.adapters[0], "a")
    world.publish(world.adapters[1], "b")
    world.publish(world.head, "kinds")
    models = {"tiny": {"source": f"dir:{world.base}", "task": "embedding"}}
    steps = [{"model": "tiny:kinds", "confidence": 0.9}, {"model": "tiny"}]
    server: HttpService
    with (
        running(
            world.state, models=models, precision="float32", cascades={"router": steps}
        ) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def embed(http: httpx.Client, model: str, text: str) -> tuple[str, Any]:
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client:
        found = client.embeddings.create(model=model, input=text, encoding_format="float")
        return found.model, np.array(found.data[0].embedding)


def ask(http: httpx.Client, model: str, text: str, *choices: str, **more: Any) -> Any:
    values = [{"value": choice} for choice in choices]
    question = {"type": "choice", "instructions": "Which?", "choices": values}
    body = {"model": model, "input": text, "questions": [question], **more}
    return http.post("/v1/decisions", json=body)


def head_says(http: httpx.Client, world: World, text: str) -> Any:
    from safetensors.numpy import load_file

    tensors = load_file(world.head / WEIGHTS_FILE)
    powers = np.exp(embed(http, "tiny", text)[1] @ tensors[WEIGHT].T / 0.25)
    return powers / powers.sum()


def test_adapters_of_an_encoder_side_by_side(http: httpx.Client, world: World) -> None:
    folders = dict(zip("ab", world.adapters, strict=True))
    asked = [(name, text) for name in folders for text in TEXTS]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda one: embed(http, f"tiny:{one[0]}", one[1]), asked))
    for (name, text), (model, vector) in zip(asked, found, strict=True):
        tokens = np.array(TEXTS[text], np.int32)
        assert model == f"tiny:{name}@1"
        assert np.abs(vector - merged(world.base, folders[name], [tokens])[0]).max() < 1e-4
    for model in ("tiny:a", "tiny:kinds"):
        assert http.post(f"/v1/models/{model}/load", json={}).status_code == 200


def test_a_head_decides(http: httpx.Client, world: World) -> None:
    wanted = head_says(http, world, "w40")
    answer = ask(http, "tiny:kinds", "w40", "two", "Three").json()["answers"][0]
    found = [row["probability"] for row in answer["probabilities"]]
    assert found == pytest.approx((wanted[1:] / wanted[1:].sum()).tolist(), abs=1e-4)
    assert answer["choice"] == ("two" if wanted[1] > wanted[2] else "Three")
    body = {"model": "tiny:kinds", "inputs": "w40"}
    rows = http.post("/v1/classify", json=body).json()
    assert [row["label"] for row in rows] == [LABELS[at] for at in np.argsort(-wanted)]


def test_a_head_knows_its_own_labels_alone(http: httpx.Client) -> None:
    answer = ask(http, "tiny:kinds", "w40", "two", "nine")
    assert answer.status_code == 400
    assert "'nine' is not a label of tiny:kinds" in answer.json()["error"]["message"]
    refused = http.post("/v1/embeddings", json={"model": "tiny:kinds", "input": "w40"})
    assert refused.status_code == 400
    assert "is a head, which decides; for vectors, ask for 'tiny'" in refused.text


def test_a_cascade_stops_where_the_head_is_sure(http: httpx.Client, world: World) -> None:
    decided = {}
    for text in TEXTS:
        wanted = head_says(http, world, text)
        answer = ask(http, "router", text, *LABELS, refusal_threshold=0.0).json()
        assert answer["model"] == "router"
        decided[text] = answer["answers"][0]["decided_by"]
        assert decided[text] == ("tiny:kinds" if wanted.max() >= 0.9 else "tiny")
    # labels that the head does not know are the next one's
    answer = ask(http, "router", "w40", "w41", "w5 w6", refusal_threshold=0.0).json()
    assert answer["answers"][0]["decided_by"] == "tiny"
    refused = ask(http, "router", "w40", *LABELS, method="nli")
    assert refused.status_code == 400
    assert "is a cascade of models, each with its own; leave it out" in refused.text
