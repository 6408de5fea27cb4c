"""The register of published adapters: versions, names, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ironcliw.adapters import (
    PublishedAdapter,
    adapter_digest,
    describe,
    names,
    publish,
    published,
    versions,
)
from ironcliw.errors import (
    ConflictError,
    ModelLoadError,
    NewerFormatError,
    RequestError,
    StoreError,
)
from ironcliw.file_digests import weights_digest


def write_adapter(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 4, "rank_pattern": {"q_proj": 8}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text("peft writes one")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    file = tmp_path / "base.gguf"
    file.write_bytes(b"GGUF base")
    return file


def record(folder: Path, base: Path, name: str = "support") -> PublishedAdapter:
    return describe(
        folder, name=name, base="tiny", base_weights=base, metrics={"before": {"loss": 2.0}}
    )


def test_versions_count_from_one_and_older_ones_stay(tmp_path: Path, base: Path) -> None:
    state = tmp_path / "state"
    first = publish(state, record(write_adapter(tmp_path / "a", b"1"), base))
    second = publish(state, record(write_adapter(tmp_path / "a", b"2"), base))
    assert (first.version, second.version) == (1, 2)
    assert published(state) == {"support": (first, second)}
    assert versions(state, "support")[0].digest == adapter_digest(Path(first.source))
    assert (Path(first.source) / "adapter_model.safetensors").read_bytes() == b"1"


def test_the_record_says_rank_base_and_metrics(tmp_path: Path, base: Path) -> None:
    kept = publish(tmp_path, record(write_adapter(tmp_path / "a"), base))
    assert kept.rank == 8
    assert kept.base_digest == weights_digest(base)
    assert kept.model_id == "tiny:support"
    assert kept.metrics == {"before": {"loss": 2.0}}
    assert kept.created <= datetime.now(UTC)


def test_a_source_in_a_bucket_is_kept_as_it_is(tmp_path: Path, base: Path) -> None:
    made = record(write_adapter(tmp_path / "a"), base)
    kept = publish(tmp_path, dataclasses.replace(made, source="s3://bucket/run/adapter"))
    assert kept.source == "s3://bucket/run/adapter"


def test_two_that_publish_at_once_get_a_version_each(tmp_path: Path, base: Path) -> None:
    made = record(write_adapter(tmp_path / "a"), base)
    threads = [threading.Thread(target=publish, args=(tmp_path, made)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.version for one in versions(tmp_path, "support")] == list(range(1, 9))
    folder = tmp_path / "adapters" / "support"
    assert not [each for each in folder.iterdir() if each.name.startswith(".")]


def test_nothing_published_is_an_empty_register(tmp_path: Path) -> None:
    assert published(tmp_path) == {}
    assert names(tmp_path) == []
    assert versions(tmp_path, "../adapters") == ()


def test_files_that_are_not_those_of_the_record_are_refused(tmp_path: Path, base: Path) -> None:
    made = record(write_adapter(tmp_path / "a"), base)
    write_adapter(tmp_path / "a", b"others")
    with pytest.raises(ModelLoadError, match="changed since: train or publish again"):
        publish(tmp_path, made)
    assert published(tmp_path) == {}


def test_a_folder_without_the_files_is_refused(tmp_path: Path, base: Path) -> None:
    made = record(write_adapter(tmp_path / "a"), base)
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"adapter_model\.safetensors is absent"):
        publish(tmp_path, made)


def test_an_adapter_is_written_as_older_releases_read_it(tmp_path: Path, base: Path) -> None:
    kept = publish(tmp_path, record(write_adapter(tmp_path / "a"), base))
    written = json.loads((Path(kept.source) / "adapter.json").read_text())
    assert (written["format_version"], "kind" in written) == (1, False)
    assert kept.kind == "lora"


def test_a_newer_record_is_refused(tmp_path: Path, base: Path) -> None:
    kept = publish(tmp_path, record(write_adapter(tmp_path / "a"), base))
    file = Path(kept.source) / "adapter.json"
    file.write_text(file.read_text().replace('"format_version": 1', '"format_version": 3'))
    with pytest.raises(NewerFormatError, match="has format_version 3, and this release reads up"):
        published(tmp_path)


@pytest.mark.parametrize("text", ['{"name": "a"}', "[]", "{", '{"format_version": 1, "x": 2}'])
def test_a_damaged_record_is_refused(tmp_path: Path, base: Path, text: str) -> None:
    kept = publish(tmp_path, record(write_adapter(tmp_path / "a"), base))
    (Path(kept.source) / "adapter.json").write_text(text)
    with pytest.raises(StoreError, match=r"adapter\.json (is damaged|cannot be read|holds a list)"):
        versions(tmp_path, "support")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a:b", "a@1", "x" * 64, "-a"])
def test_a_name_that_cannot_be_a_path_is_refused(tmp_path: Path, base: Path, name: str) -> None:
    with pytest.raises(RequestError, match="is no name for an adapter; use 1 to 63 letters"):
        record(write_adapter(tmp_path / "a"), base, name)


def test_names_that_differ_by_case_alone_are_refused(tmp_path: Path, base: Path) -> None:
    publish(tmp_path, record(write_adapter(tmp_path / "a"), base, "Support"))
    with pytest.raises(ConflictError, match="called 'Support' already; 'support' differs by"):
        publish(tmp_path, record(tmp_path / "a", base, "support"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "/models/tiny"}, "is no id of the catalogue; add the model to ironcliw.toml"),
        ({"base_digest": "abc"}, "base_digest 'abc' is no SHA-256"),
        ({"rank": 0}, "rank is 0; it must be 1 or more"),
        ({"metrics": {"after": {"loss": float("nan")}}}, "loss after is nan; a measured number"),
        ({"created": datetime(2026, 1, 1)}, "has no time zone"),
    ],
)
def test_a_record_that_says_nonsense_is_refused(
    tmp_path: Path, base: Path, change: dict[str, object], message: str
) -> None:
    made = record(write_adapter(tmp_path / "a"), base)
    with pytest.raises(RequestError, match=message):
        dataclasses.replace(made, **change)  # type: ignore[arg-type]
