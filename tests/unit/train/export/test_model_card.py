"""What a published model's page says."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from train.export.model_card import CardFacts, Kind, hub_licence, model_card

FACTS = CardFacts(
    repository="me/bot",
    kind="adapter",
    base="llama-2-7b",
    base_repository="meta-llama/Llama-2-7b-hf",
    base_digest="ab" * 32,
    licence="Llama-2",
    config={
        "use_lora": True,
        "use_dora": True,
        "lora_rank": 8,
        "lora_alpha": 16.0,
        "quantization": "nf4",
        "data": {"train": ["/home/somebody/secret/pairs.jsonl"]},
        "preference": {"loss": "ipo", "beta": 0.1},
        "learning_rate": 2e-4,
        "max_steps": None,
    },
    data_digest="cd" * 32,
    before={"eval_loss": 1.0, "preference_accuracy": 0.5, "eval_rows": 40},
    after={"eval_loss": 0.5, "preference_accuracy": 0.875, "eval_rows": 40},
    verdict="eval_loss went from 1.0000 to 0.5000",
)


def test_everything_is_said() -> None:
    page = model_card(FACTS)
    _, head, text = page.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "base_model": "meta-llama/Llama-2-7b-hf",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "llama2",
        "pipeline_tag": "text-generation",
        "tags": ["ironcliw", "dpo", "lora"],
    }
    assert "DoRA (arXiv 2402.09353), rank 8, alpha 16, base held in nf4" in text
    assert "preferences, loss ipo, beta 0.1" in text
    assert "`pairs.jsonl`" in text
    assert "somebody" not in text
    assert "| preference accuracy | 0.5000 | 0.8750 |" in text
    assert "40 held-out rows" in text
    assert "max_steps" not in text


def test_numbers_of_the_loss() -> None:
    options = {"loss": "simpo", "beta": 2.0, "label_smoothing": 0.0, "gamma": 0.5}
    config = {**FACTS.config, "preference": options}
    page = model_card(dataclasses.replace(FACTS, config=config))
    assert "| objective | preferences, loss simpo, beta 2, gamma 0.5 |" in page


def test_a_base_whose_weights_were_rounded() -> None:
    assert "GGUF" not in model_card(FACTS)
    page = model_card(dataclasses.replace(FACTS, rounded="Q4_1"))
    assert "trained on the base's weights as a GGUF file has them (Q4_1), which are rounded" in page


def test_nothing_was_held_out() -> None:
    page = model_card(dataclasses.replace(FACTS, before={}, after={}, forced=True))
    assert "Nothing was held out" in page


@pytest.mark.parametrize(
    ("ours", "theirs"), [("Apache-2.0", "apache-2.0"), ("MIT", "mit"), ("unpublished", "other")]
)
def test_licences(ours: str, theirs: str) -> None:
    assert hub_licence(ours) == theirs
    head = model_card(dataclasses.replace(FACTS, licence=ours)).split("---\n")[1]
    assert yaml.safe_load(head).get("license_name") == (ours if theirs == "other" else None)


def test_a_base_that_is_not_on_the_hub() -> None:
    head = model_card(dataclasses.replace(FACTS, base_repository=None)).split("---\n")[1]
    assert "base_model" not in yaml.safe_load(head)


@pytest.mark.parametrize(
    ("kind", "library"),
    [("adapter", "peft"), ("merged", "sentence-transformers"), ("full", "sentence-transformers")],
)
def test_an_embedding_model_is_called_one(kind: Kind, library: str) -> None:
    config = {
        **FACTS.config,
        "use_lora": kind != "full",
        "preference": None,
        "embedding": {"temperature": 0.05, "matryoshka": [192, 96], "label_name_share": 0.5},
    }
    measures = {"eval_loss": 1.0, "retrieval_accuracy_96": 0.25, "retrieval_accuracy_192": 0.75}
    facts = dataclasses.replace(
        FACTS, kind=kind, config=config, before=measures, after={**measures, "eval_rows": 40}
    )
    _, head, text = model_card(facts).split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["library_name"] == library
    assert metadata["pipeline_tag"] == "sentence-similarity"
    assert {"sentence-similarity", "feature-extraction"} <= set(metadata["tags"])
    assert not {"sft", "dpo"} & set(metadata["tags"])
    assert "| objective | vectors of texts that belong together (contrastive, InfoNCE)" in text
    assert "temperature 0.05; also of the first 192, 96 dimensions |" in text
    assert "supervised" not in text
    longer, shorter = (text.index(f"accuracy of {length} dimensions") for length in (192, 96))
    assert longer < shorter
