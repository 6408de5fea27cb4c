"""The catalogue of models, and its changes by settings."""

from __future__ import annotations

import pytest

from ironcliw.catalog import Catalog
from ironcliw.errors import ModelNotFoundError, SettingsError
from ironcliw.setting_sections import ModelSettings


def change(**fields: str) -> ModelSettings:
    """A `[models.ID]` section."""
    return ModelSettings.model_validate(fields)


NAMED_IN_THE_DESIGN = {
    "all-MiniLM-L6-v2",
    "distilbert-base-uncased",
    "bart-large-mnli",
    "t5-small",
    "t5-base",
    "gpt2-medium",
    "prime-7b-chat-v1",
    "prime-7b-vision-v1",
    "prime-13b-reasoning-v1",
    "llama-2-7b",
    "SmolLM2-135M-Instruct",
}


def test_every_model_of_the_design_is_there() -> None:
    assert set(Catalog()) == NAMED_IN_THE_DESIGN
    assert len(Catalog()) == len(NAMED_IN_THE_DESIGN)


def test_two_ship_with_the_installation() -> None:
    shipped = {card.id for card in Catalog().values() if card.bundled}
    assert shipped == {"all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"}


@pytest.mark.parametrize("card", Catalog().values(), ids=lambda card: card.id)
def test_facts_are_complete(card: object) -> None:
    facts = {name: getattr(card, name) for name in ("bytes", "dimensions", "context", "licence")}
    assert all(facts.values()), facts
    assert getattr(card, "source") or getattr(card, "note")  # noqa: B009


def test_owners() -> None:
    owners = {card.id: card.owner for card in Catalog().values()}
    assert owners["t5-small"] == "google-t5"
    assert owners["all-MiniLM-L6-v2"] == "ironcliw"
    assert owners["prime-7b-chat-v1"] == "local"


def test_where_weights_are_on_the_hub() -> None:
    found = {card.id: card.repository for card in Catalog().values()}
    assert found["t5-small"] == "google-t5/t5-small"
    assert found["SmolLM2-135M-Instruct"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert found["llama-2-7b"] is None
    # other weights under that name come from somewhere else
    name = "SmolLM2-135M-Instruct"
    assert Catalog({name: change(source="dir:/m")})[name].repository is None
    assert Catalog({name: change(source="hf:me/it@main")})[name].repository == "me/it"
    assert Catalog({name: change(engine="torch")})[name].repository == found[name]


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'gpt-9'; known models: all-MiniLM.*t5-small"):
        Catalog()["gpt-9"]
    assert "gpt-9" not in Catalog()


def test_settings_change_a_shipped_model() -> None:
    card = Catalog({"prime-7b-chat-v1": change(source="dir:/m")})["prime-7b-chat-v1"]
    assert (card.source, card.task) == ("dir:/m", "generation")


def test_settings_add_a_model() -> None:
    card = Catalog({"mine": change(source="hf:me/mine@main", task="embedding")})["mine"]
    assert (card.owner, card.licence) == ("me", "unknown")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (change(source="dir:/m"), r"models\.mine is a new model and lacks task"),
        (change(), r"lacks source and task"),
        (change(source="dir:/m", task="magic"), r"task is 'magic'; give one of embedding"),
        (
            change(source="dir:/m", task="embedding", quantization="4bit"),
            r"models\.mine\.quantization is '4bit', and mine is for embedding: only models for gen",
        ),
        (
            change(source="dir:/m", task="nli", engine="vllm"),
            r"models\.mine\.engine is 'vllm', and mine is for nli",
        ),
    ],
)
def test_a_model_that_cannot_be_is_refused(fields: ModelSettings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Catalog({"mine": fields})
