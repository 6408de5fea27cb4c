"""Decisions by a published head: its probabilities, its labels, and files that are wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ironcliw.adapters import describe, publish
from ironcliw.catalog import Catalog
from ironcliw.errors import AdapterError, ModelNotFoundError, RequestError
from ironcliw.file_digests import weights_digest
from ironcliw.head_record import BIAS, WEIGHT, WEIGHTS_FILE, HeadRecord
from ironcliw.setting_sections import AdapterSettings, ModelSettings
from serve.decisions.answers import Estimate
from serve.decisions.published_head import HeadMethod, load_head
from serve.decisions.questions import Option, Options, Question
from serve.embeddings import EmbeddingResult, Served
from tests.unit.train.embedding.encoders import make_encoder

LABELS = ("play_music", "book_trip", "say_time")
MODEL = "all-MiniLM-L6-v2:intents"


class Embedder:
    """A text is a vector of three numbers, written with spaces."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def vectors_of(
        self, model_id: str, texts: Sequence[str], priority: str, deadline: float | None
    ) -> EmbeddingResult:
        self.asked.append(model_id)
        vectors = np.array([[float(n) for n in text.split()] for text in texts], np.float32)
        return EmbeddingResult(vectors, 7, [(0, 2)], Served(model_id, "local", "node"))


def write(folder: Path, temperature: float = 0.5) -> Path:
    folder.mkdir(exist_ok=True)
    HeadRecord(LABELS, 3, temperature, {"accuracy": 0.9}).write(folder)
    weight = np.eye(3, dtype=np.float32)
    save_file({WEIGHT: weight, BIAS: np.array([0, 0, 0.5], np.float32)}, folder / WEIGHTS_FILE)
    return folder


def method_of(folder: Path, embedder: Embedder | None = None) -> HeadMethod:
    given = {
        "base": "all-MiniLM-L6-v2",
        "source": f"dir:{folder}",
        "kind": "head",
    }
    catalog = Catalog(adapters={"intents": AdapterSettings.model_validate(given)})
    return HeadMethod(catalog, embedder or Embedder(), folder)


def ask(method: HeadMethod, text: str, *questions: Question) -> Any:
    return asyncio.run(method.estimate(MODEL, text, questions, Options("{}"), None))


def choice(*names: str) -> Question:
    return Question("choice", None, "What?", tuple(Option(name) for name in names))


def test_probabilities_of_the_choices_given(tmp_path: Path) -> None:
    embedder = Embedder()
    found = ask(
        method_of(write(tmp_path / "head"), embedder),
        "3 4 0",  # of length 5
        choice("book trip", "play_music"),
        Question("predicate", None, "Say Time"),
    )
    powers = np.exp(np.array([0.6, 0.8, 0.5]) / 0.5)
    whole = powers / powers.sum()
    first, second = found.estimates
    assert isinstance(first, Estimate)
    assert first.probabilities == pytest.approx(whole[[1, 0]] / whole[:2].sum())
    assert first.fit == pytest.approx(whole[:2].sum())
    assert second.probabilities == pytest.approx([whole[2]])
    assert (found.tokens, found.truncated) == (7, 2)
    assert embedder.asked == ["all-MiniLM-L6-v2"]


def test_all_of_its_labels(tmp_path: Path) -> None:
    method = method_of(write(tmp_path / "head"))
    labels, rows, _ = asyncio.run(method.own_labels(MODEL, ["1 0 0", "0 0 1"], "normal", None))
    assert labels == LABELS
    assert rows.argmax(1).tolist() == [0, 2]
    assert rows.sum(1) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("play_music", "sing"), "'sing' is not a label of .*; they are play_music, book_trip"),
        (("play_music", "Play music"), "two of its options are one label"),
    ],
)
def test_questions_about_other_labels(names: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=words):
        ask(method_of(write(tmp_path / "head")), "1 0 0", choice(*names))


def test_vectors_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"reads vectors of 3 dimensions, .* have 2"):
        ask(method_of(write(tmp_path / "head")), "1 0", choice("play_music", "book_trip"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "LORA"}, "of the kind 'LORA' and no head; fit one"),
        ({"format_version": 9}, "format_version 9, and this release reads 1"),
        ({"labels": ["a"]}, "labels must be two texts or more"),
        ({"labels": ["a", "a", "b"]}, "labels must be two texts or more, each once"),
        ({"temperature": 0}, "temperature is 0, and must be above 0"),
        ({"dimensions": "3"}, "dimensions is '3', and must be 1 or more"),
        ({"dimensions": 4}, "the two files do not belong together"),
    ],
)
def test_records_that_are_wrong(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "head")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(AdapterError, match=words):
        ask(method_of(folder), "1 0 0", choice("play_music", "book_trip"))


def test_weights_that_are_wrong(tmp_path: Path) -> None:
    folder = write(tmp_path / "head")
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(AdapterError, match="is damaged"):
        ask(method_of(folder), "1 0 0", choice("play_music", "book_trip"))
    bad = {WEIGHT: np.full((3, 3), np.nan, np.float32), BIAS: np.zeros(3, np.float32)}
    save_file(bad, file)
    with pytest.raises(AdapterError, match="all of them finite"):
        ask(method_of(folder), "1 0 0", choice("play_music", "book_trip"))


def test_a_head_is_read_once_until_it_is_forgotten(tmp_path: Path) -> None:
    folder = write(tmp_path / "head")
    method = method_of(folder)

    async def scenario() -> list[float]:
        question = (choice("play_music", "book_trip"),)
        found = []
        for _ in range(2):
            one = await method.estimate(MODEL, "1 0 0", question, Options("{}"), None)
            found.append(float(one.estimates[0].probabilities[0]))
            write(folder, temperature=5.0)
        method.forget(MODEL)
        one = await method.estimate(MODEL, "1 0 0", question, Options("{}"), None)
        return [*found, float(one.estimates[0].probabilities[0])]

    first, second, third = asyncio.run(scenario())
    assert first == second > third


def test_an_unknown_head(tmp_path: Path) -> None:
    method = method_of(write(tmp_path / "head"))
    with pytest.raises(ModelNotFoundError, match="no adapter 'other'"):
        asyncio.run(
            method.estimate("all-MiniLM-L6-v2:other", "1 0 0", (choice("a", "b"),), Options("{}"), None)  # noqa: E501
        )  # fmt: skip


@pytest.mark.parametrize("said_by", ["record", "head"])
def test_other_weights_of_its_base_are_refused(tmp_path: Path, said_by: str) -> None:
    base, folder = make_encoder(tmp_path / "base"), write(tmp_path / "head")
    digest = weights_digest(base)
    models = {"tiny": ModelSettings(source=f"dir:{base}", task="embedding")}
    given = {"base": "tiny", "source": f"dir:{folder}", "kind": "head"}
    if said_by == "head":
        HeadRecord(LABELS, 3, 0.5, base="tiny", base_digest=digest).write(folder)
        adapters = {"intents": AdapterSettings.model_validate(given)}
        catalog = Catalog(models, adapters=adapters)
    else:
        record = describe(folder, name="intents", base="tiny", base_weights=base, metrics={})
        publish(tmp_path / "state", record)
        catalog = Catalog(models, state_dir=tmp_path / "state")
    card = catalog["tiny:intents"]
    assert load_head(card, tmp_path / "models").record.labels == LABELS
    config = base / "config.json"
    config.write_text(config.read_text().replace("{", '{"changed": true,', 1))
    with pytest.raises(AdapterError, match="trained on other weights than tiny has here") as told:
        load_head(card, tmp_path / "models")
    assert told.value.code == "adapter_of_other_base"
