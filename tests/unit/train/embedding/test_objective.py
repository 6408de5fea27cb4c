"""Vectors against transformers' own, the loss against its formula, chunks against the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import SettingsError, UnsupportedError
from serve.engines.encoder import load_encoder as load_served
from serve.engines.protocol import PackedTokens
from tests.unit.train.embedding.encoders import grouped, labelled_texts, make_encoder
from train.config import make_config
from train.data.plan import MicroBatch, StepPlan
from train.embedding.batch import GroupedTexts, compare
from train.embedding.encoder import Encoder
from train.embedding.load import load_encoder
from train.embedding.losses import contrastive_loss
from train.embedding.objective import EmbeddingLoss, in_chunks, summed_loss
from train.embedding.options import EmbeddingOptions
from train.model.adapters import trainable
from train.randomness import seeded

CPU = torch.device("cpu")
TEXTS = [np.array(text, np.int32) for text in ([2, 9, 3], [2, 5, 6, 7, 3], [2, 3], [2, 30, 31, 3])]


def loaded(path: Path, **changes: Any) -> Encoder:
    config = make_config(
        {"model_name": str(path), "lora_rank": 4, "embedding": {}, **changes}, "test"
    )
    encoder = load_encoder(config, EncoderFolder.read(path), "0" * 64, torch.float32, CPU)
    if config.use_lora:
        torch.manual_seed(3)
        for _, parameter in trainable(encoder):
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize(
    "pooling", ["mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"]
)
def test_vectors_are_those_that_are_served(kind: str, pooling: str, tmp_path: Path) -> None:
    path = make_encoder(tmp_path / "model", kind, pooling)
    found = loaded(path, use_lora=False)(TEXTS)
    served = load_served(EncoderFolder.read(path), device="cpu", precision="float32")
    wanted = torch.from_numpy(np.array(served.embed(PackedTokens.pack(TEXTS))))
    unit = torch.nn.functional.normalize(found, dim=1)
    torch.testing.assert_close(unit, wanted, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_transformers_own_attention(tmp_path: Path) -> None:
    path = make_encoder(tmp_path / "model")
    encoder = loaded(path)
    weights = torch.linspace(-1, 1, 4 * 32).view(4, 32)
    (encoder(TEXTS) * weights).sum().backward()
    got = {name: p.grad.clone() for name, p in trainable(encoder) if p.grad is not None}
    encoder.zero_grad()
    body = encoder.body.get_base_model()
    body.config._attn_implementation = "eager"
    parts = []
    for text in TEXTS:
        tokens = torch.from_numpy(text.astype(np.int64))[None]
        parts.append(body(input_ids=tokens).last_hidden_state[0].mean(0))
    (torch.stack(parts) * weights).sum().backward()
    assert len(got) == 2 * 2 * 6
    for name, parameter in trainable(encoder):
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_the_loss_is_its_formula() -> None:
    random = torch.Generator().manual_seed(0)
    anchors, candidates = (torch.randn(count, 6, generator=random) for count in (3, 4))
    own = torch.tensor([2, 0, 0])
    excluded = torch.zeros(3, 4, dtype=torch.bool)
    excluded[1, 3] = True
    found = contrastive_loss(
        anchors, candidates, own, excluded, temperature=0.2, lengths=(6, 2)
    ).tolist()
    for row in range(3):
        losses = []
        for length in (6, 2):
            powers = []
            for column in range(4):
                a, c = anchors[row, :length].numpy(), candidates[column, :length].numpy()
                cosine = a @ c / np.linalg.norm(a) / np.linalg.norm(c)
                powers.append(0.0 if excluded[row, column] else np.exp(cosine / 0.2))
            losses.append(-np.log(powers[int(own[row])] / sum(powers)))
        assert found[row] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("use_lora", [True, False])
def test_chunks_have_the_gradient_of_the_whole(use_lora: bool, tmp_path: Path) -> None:
    path = make_encoder(tmp_path / "model")
    changes: dict[str, Any] = {"use_lora": use_lora}
    if use_lora:
        changes["lora_dropout"] = 0.3
    encoder = loaded(path, **changes)
    data = labelled_texts()
    rows = tuple(range(8))
    objective = EmbeddingLoss(encoder, data, EmbeddingOptions(label_name_share=1.0), 25)
    with seeded(0, 0, 0, 0):
        loss, _ = objective.backward(MicroBatch(rows, 0, 0))
    got = {name: p.grad.clone() for name, p in trainable(encoder) if p.grad is not None}
    encoder.zero_grad()
    given = GroupedTexts(data)
    comparison = compare(given, rows, [given.text(row, 1) for row in rows])
    chunks = in_chunks(comparison.texts, 25)
    assert len(chunks) > 2
    with seeded(0, 0, 0, 0):
        torch.rand(2, 8, dtype=torch.float64)  # what positives are drawn by
        vectors = torch.cat([encoder(chunk) for chunk in chunks])
    whole, _ = summed_loss(vectors, comparison, 0.05, (32,))
    whole.backward()
    assert loss == pytest.approx(float(whole.detach()), rel=1e-6)
    for name, parameter in trainable(encoder):
        if parameter.grad is not None:
            torch.testing.assert_close(got[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_what_is_drawn_depends_on_the_place_alone(tmp_path: Path) -> None:
    encoder = loaded(make_encoder(tmp_path / "model"))
    objective = EmbeddingLoss(encoder, labelled_texts(), EmbeddingOptions(), 1000)
    losses = []
    for step in (0, 1, 0):
        torch.rand(17)  # whatever was drawn before
        with seeded(0, step, 0, 0):
            losses.append(objective.backward(MicroBatch(tuple(range(12)), 0, 0))[0])
    assert losses[0] == losses[2] != losses[1]


def test_rows_are_compared_within_their_shard() -> None:
    data = labelled_texts(16)
    plan = StepPlan(data, seed=0, batch_size=16, shards=2, micro_batch_tokens=40, whole_shards=True)
    step = plan.step(0)
    assert [len(shard.micro_batches) for shard in step.shards] == [1, 1]
    assert sorted(row for shard in step.shards for row in shard.micro_batches[0].rows) == list(
        range(16)
    )


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        (("Dense",), "bert", r"has Dense behind its pooling, which is not trained; take a model"),
        ((), "mpnet", r"is a mpnet; embeddings are trained of bert, camembert, distilbert"),
    ],
)
def test_models_that_are_not_trained(
    more: tuple[str, ...], kind: str, words: str, tmp_path: Path
) -> None:
    path = make_encoder(tmp_path / "model", more=())
    folder = EncoderFolder.read(path)
    if more:
        from ironcliw.encoder_folder import Dense, Pooling

        object.__setattr__(folder, "head", (Pooling(("mean",)), Dense("Tanh", {})))
    object.__setattr__(folder, "config", {**folder.config, "model_type": kind})
    config = make_config({"model_name": str(path), "embedding": {}}, "test")
    with pytest.raises(UnsupportedError, match=words):
        load_encoder(config, folder, "0" * 64, torch.float32, CPU)


def test_lengths_that_the_vectors_have_not(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"matryoshka has 32, and the vectors .* 32 dimensions"):
        loaded(make_encoder(tmp_path / "model"), embedding={"matryoshka": [16, 32]})


def test_pairs_have_their_own_positives(tmp_path: Path) -> None:
    encoder = loaded(make_encoder(tmp_path / "model"))
    data = grouped([[2, 9, 3], [2, 10, 3]], [[2, 11, 3], [2, 12, 3], [2, 13, 3]])
    loss, right = EmbeddingLoss(encoder, data, EmbeddingOptions(), 1000).backward(
        MicroBatch((0, 1), 0, 0)
    )
    assert loss > 0
    assert right in (0.0, 1.0, 2.0)
