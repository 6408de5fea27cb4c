"""Whole runs on embeddings in this process, without Ray: their ends, resumes and results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.file_digests import weights_digest
from serve.engines.encoder import load_encoder as load_served
from serve.engines.protocol import PackedTokens
from tests.unit.train.embedding.encoders import (
    embed_job,
    grouped,
    make_encoder,
)
from train.embedding.evaluation import prototype_accuracy
from train.loop.run import StepReport
from train.outcome import read_outcome
from train.run_files import LOG
from train.worker import work


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("models") / "encoder")


def bits(folder: Path) -> list[bytes]:
    weights = next(folder.rglob("run/adapter/*.safetensors"), None) or next(
        folder.rglob("run/model/*.safetensors")
    )
    return [weights.read_bytes(), (folder / "run" / LOG).read_bytes()]


def lines(folder: Path, event: str | None = None) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "run" / LOG).read_text().splitlines()]
    return [line for line in found if line.get("event") == event]


def test_a_run_learns_and_measures(tmp_path: Path, model: Path) -> None:
    job = embed_job(tmp_path, model, num_epochs=6, embedding={"matryoshka": [8]})
    work(job)
    outcome = read_outcome(job.uri)
    assert outcome is not None
    steps, measured = lines(tmp_path), lines(tmp_path, "evaluation")
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert steps[-1]["batch_accuracy"] > steps[0]["batch_accuracy"]
    assert measured[-1]["retrieval_accuracy"] == 1.0
    assert measured[-1]["prototype_accuracy"] >= measured[0]["prototype_accuracy"]
    assert 0 < measured[-1]["retrieval_accuracy_8"] <= 1
    assert measured[-1]["eval_rows"] == 12
    assert outcome["evaluation"]["eval_loss"] < outcome["before"]["eval_loss"]
    assert "retrieval accuracy" in (tmp_path / "run" / "evaluation.md").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_dropout": 0.2},
        {"lora_dropout": 0.2, "gradient_checkpointing": True},
        {"use_lora": False},
        {"shards": 2, "embedding": {"label_name_share": 0.0}},
    ],
)
def test_a_run_that_dies_after_every_step_has_the_same_bits(
    changes: dict[str, Any], tmp_path: Path, model: Path
) -> None:
    whole, broken = (embed_job(tmp_path / name, model, **changes) for name in ("a", "b"))
    work(whole)

    def die(at: StepReport) -> None:
        raise KeyboardInterrupt  # not an Exception: as sudden as a test can be

    for _ in range(6):
        with pytest.raises(KeyboardInterrupt):
            work(broken, report=die)
    work(broken)
    assert bits(tmp_path / "a") == bits(tmp_path / "b")


def test_a_model_with_all_weights_trained_is_served_from_its_folder(
    tmp_path: Path, model: Path
) -> None:
    job = embed_job(tmp_path, model, use_lora=False, learning_rate=1e-3)
    work(job)
    result = tmp_path / "run" / "model"
    before, after = (load_file(folder / "model.safetensors") for folder in (model, result))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "pooler.dense.weight" not in changed
    assert "encoder.layer.0.attention.self.query.weight" in changed
    text = np.array([2, 5, 20, 3], np.int32)
    vectors = [
        load_served(EncoderFolder.read(folder), device="cpu", precision="float32").embed(
            PackedTokens.pack([text])
        )
        for folder in (model, result)
    ]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert sorted(each.name for each in result.iterdir()) == sorted(
        each.name for each in model.iterdir()
    )


@pytest.mark.parametrize("use_lora", [True, False])
def test_a_transformer_in_a_folder_of_its_own(use_lora: bool, tmp_path: Path, model: Path) -> None:
    nested = tmp_path / "nested"
    shutil.copytree(model, nested)
    (nested / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (nested / name).rename(nested / "0_Transformer" / name)
    listing = nested / "modules.json"
    modules = json.loads(listing.read_text())
    listing.write_text(json.dumps([{**modules[0], "path": "0_Transformer"}, *modules[1:]]))
    assert weights_digest(nested) == weights_digest(model), "the same weights at another place"
    for folder, place in (("a", model), ("b", nested)):
        work(embed_job(tmp_path / folder, place, use_lora=use_lora, max_steps=2))
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    if not use_lora:
        assert (tmp_path / "b" / "run" / "model" / "0_Transformer" / "model.safetensors").is_file()


def test_hard_negatives_and_pairs(tmp_path: Path, model: Path) -> None:
    rows = [
        [[2, 4 + at, 20 + at, 3], [2, 4 + at, 3], *([[2, 40 + at, 3]] if at % 2 else [])]
        for at in range(8)
    ]
    job = embed_job(tmp_path, model, grouped(*rows))
    work(job)
    assert read_outcome(job.uri) is not None
    assert lines(tmp_path)[-1]["supervised"] == 0


def test_prototypes_leave_the_text_itself_out() -> None:
    # each text is like itself alone: its own vector must not speak for its label
    apart = np.array([[1, 0], [-1, 0.1], [1, 0.1], [-1, 0]], np.float32)
    assert prototype_accuracy(apart, [0, 0, 1, 1]) == 0.0
    near = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    assert prototype_accuracy(near, [0, 0, 1, 1]) == 1.0
    assert prototype_accuracy(near, [0, 1, 2, 3]) is None
    assert prototype_accuracy(near[:3], [0, 0, 1]) == 1.0


def test_data_without_rows(tmp_path: Path, model: Path) -> None:
    job = embed_job(tmp_path, model, grouped())
    work(job)
    with pytest.raises(Exception, match="no rows to train on"):
        read_outcome(job.uri)


def test_texts_longer_than_a_micro_batch_are_named(tmp_path: Path, model: Path) -> None:
    long = grouped([[2, *range(4, 24), 3], [2, 4, 3]], labelled=True)
    job = embed_job(tmp_path, model, long, micro_batch_tokens=16)
    work(job)
    with pytest.raises(Exception, match=r"texts.jsonl:1 has 25 tokens, more than micro_batch"):
        read_outcome(job.uri)
