"""Adapters in the catalogue: of the settings, published ones, and how they are addressed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ironcliw.adapters import describe, publish
from ironcliw.catalog import Catalog
from ironcliw.errors import ModelNotFoundError, SettingsError
from ironcliw.setting_sections import AdapterSettings
from ironcliw.settings import load_settings

BASE, OTHER = "SmolLM2-135M-Instruct", "gpt2-medium"


def published(tmp_path: Path, name: str, *, base: str = BASE, source: str | None = None) -> None:
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    weights = tmp_path / "base.gguf"
    weights.write_bytes(b"GGUF")
    record = describe(folder, name=name, base=base, base_weights=weights, metrics={})
    fields: dict[str, Any] = {} if source is None else {"source": source}
    publish(tmp_path, type(record)(**{**record.encode(), "created": record.created, **fields}))


def settings(source: str = "dir:/a", base: str = BASE) -> dict[str, AdapterSettings]:
    return {"mine": AdapterSettings(base=base, source=source)}


def test_one_of_the_settings_is_a_model_of_its_own(tmp_path: Path) -> None:
    catalog = Catalog(adapters=settings(), state_dir=tmp_path)
    card = catalog[f"{BASE}:mine"]
    assert card.adapter is not None
    assert (card.id, card.adapter.base, card.adapter.source) == (f"{BASE}:mine", BASE, "dir:/a")
    assert (card.task, card.source) == (catalog[BASE].task, catalog[BASE].source)
    assert f"{BASE}:mine" in catalog
    assert f"{BASE}:mine" in list(catalog)


def test_one_that_is_published_later_is_found_with_its_version(tmp_path: Path) -> None:
    catalog = Catalog(state_dir=tmp_path)
    assert f"{BASE}:chat" not in catalog
    published(tmp_path, "chat")
    assert catalog[f"{BASE}:chat"].id == f"{BASE}:chat@1"
    published(tmp_path, "chat")
    assert catalog[f"{BASE}:chat"].id == f"{BASE}:chat@2"
    assert catalog[f"{BASE}:chat@1"].id == f"{BASE}:chat@1"
    assert [one for one in catalog if ":" in one] == [f"{BASE}:chat@2"]


def test_settings_win_over_what_was_published(tmp_path: Path) -> None:
    published(tmp_path, "mine")
    catalog = Catalog(adapters=settings(), state_dir=tmp_path)
    assert catalog[f"{BASE}:mine"].id == f"{BASE}:mine"
    assert catalog[f"{BASE}:mine@1"].id == f"{BASE}:mine@1"


def test_what_is_on_this_machine_alone_is_served_here(tmp_path: Path) -> None:
    published(tmp_path, "here")
    published(tmp_path, "far", source="gs://bucket/far")
    catalog = Catalog(state_dir=tmp_path)
    assert catalog[f"{BASE}:here"].placement == "local"
    assert catalog[f"{BASE}:far"].placement == catalog[BASE].placement == "auto"


def test_a_replica_without_a_register_knows_what_it_was_told(tmp_path: Path) -> None:
    published(tmp_path, "far", source="gs://bucket/far")
    known = Catalog(state_dir=tmp_path)[f"{BASE}:far"]
    away = Catalog(state_dir=tmp_path / "elsewhere")
    assert known.adapter is not None
    away.adapters.learn(known.adapter)
    assert away[known.id] == known


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (f"{BASE}:nobody", f"no adapter 'nobody' of {BASE}; its adapters: {BASE}:chat@1"),
        (f"{BASE}:chat@2", "no adapter 'chat@2'"),
        (f"{BASE}:chat@0", "no adapter 'chat@0'"),
        (f"{BASE}:chat@x", "no adapter 'chat@x'"),
        (f"{BASE}:../chat", "no adapter '../chat'"),
        (f"{OTHER}:chat", f"no adapter 'chat' of {OTHER}; it has no adapters; did you mean {BASE}"),
        ("nobody:chat", "no model 'nobody'; known models: "),
    ],
)
def test_what_is_not_there_is_named_with_what_is(tmp_path: Path, model: str, message: str) -> None:
    published(tmp_path, "chat")
    with pytest.raises(ModelNotFoundError) as caught:
        Catalog(state_dir=tmp_path)[model]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"mine": {"base": "nobody", "source": "dir:/a"}}, "adapters.mine.base is 'nobody', which"),
        ({"mine": {"base": BASE, "source": "/a"}}, r"adapters.mine.source .*give dir:PATH, s3://"),
        ({"mine": {"base": BASE}}, "adapters.mine.source"),
        ({"a:b": {"base": BASE, "source": "dir:/a"}}, "'a:b' is no name for an adapter"),
        ({"mine": {"base": BASE, "source": "dir:/a", "digest": "x"}}, "adapters.mine.digest"),
    ],
)
def test_settings_that_cannot_be_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(adapters=section)
