"""An adapter's files: from a folder, from buckets through the real clients, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ironcliw import adapter_sources, buckets
from ironcliw.adapter_catalog import AdapterCard
from ironcliw.adapter_sources import locate_adapter
from ironcliw.adapters import adapter_digest
from ironcliw.errors import AdapterError
from ironcliw.retries import Retry
from tests.unit.train.checkpoint.object_server import Objects, serve_objects

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    monkeypatch.setattr(adapter_sources, "RETRY", Retry(attempts=3, sleep=lambda seconds: None))
    monkeypatch.setattr(buckets, "CLIENT_RETRY_SECONDS", 0.01)
    with serve_objects() as server:
        server.content |= {f"run/{CONFIG}": b"{}", f"run/{WEIGHTS}": b"weights" * 1000}
        server.modified |= dict.fromkeys(server.content, 0.0)
        yield server


@pytest.fixture(params=["s3", "gs"])
def uri(request: pytest.FixtureRequest, objects: Objects) -> str:
    endpoint = f"endpoint_override=127.0.0.1:{objects.port}&scheme=http"
    if request.param == "s3":
        return f"s3://key:secret@bucket/run?{endpoint}&region=us-east-1"
    return f"gs://anonymous@bucket/run?{endpoint}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / CONFIG).write_bytes(b"{}")
    (folder / WEIGHTS).write_bytes(b"weights" * 1000)
    return folder


def card(source: str, digest: str | None = None) -> AdapterCard:
    return AdapterCard("mine", "tiny", source, digest=digest)


def test_a_folder_is_read_where_it_lies(folder: Path, tmp_path: Path) -> None:
    assert locate_adapter(card(f"dir:{folder}"), tmp_path / "cache") == folder
    digest = adapter_digest(folder)
    assert locate_adapter(card(str(folder), digest), tmp_path / "cache") == folder


def test_what_is_in_a_bucket_is_fetched_once_where_it_has_a_digest(
    uri: str, objects: Objects, folder: Path, tmp_path: Path
) -> None:
    wanted = card(uri, adapter_digest(folder))
    fetched = locate_adapter(wanted, tmp_path)
    assert (fetched / WEIGHTS).read_bytes() == b"weights" * 1000
    asked = len(objects.asked)
    assert locate_adapter(wanted, tmp_path) == fetched
    assert len(objects.asked) == asked


def test_what_has_no_digest_is_fetched_again(uri: str, objects: Objects, tmp_path: Path) -> None:
    locate_adapter(card(uri), tmp_path)
    objects.content[f"run/{WEIGHTS}"] = b"newer"
    assert (locate_adapter(card(uri), tmp_path) / WEIGHTS).read_bytes() == b"newer"


def test_a_kept_copy_that_was_damaged_is_fetched_again(
    uri: str, folder: Path, tmp_path: Path
) -> None:
    wanted = card(uri, adapter_digest(folder))
    fetched = locate_adapter(wanted, tmp_path)
    (fetched / WEIGHTS).write_bytes(b"dust")
    assert (locate_adapter(wanted, tmp_path) / WEIGHTS).read_bytes() == b"weights" * 1000
    (fetched / CONFIG).unlink()
    assert (locate_adapter(wanted, tmp_path) / CONFIG).read_bytes() == b"{}"


def test_an_error_that_passes_is_no_error(uri: str, objects: Objects, tmp_path: Path) -> None:
    objects.fail("GET", 503)
    assert (locate_adapter(card(uri), tmp_path) / CONFIG).exists()


def test_other_bytes_than_those_of_the_digest_are_refused_and_not_kept(
    uri: str, tmp_path: Path
) -> None:
    message = r"tiny:mine: its files have the digest .* and not 00"
    with pytest.raises(AdapterError, match=message) as caught:
        locate_adapter(card(uri, "0" * 64), tmp_path)
    assert "secret" not in str(caught.value)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_what_is_not_there_is_named(uri: str, objects: Objects, tmp_path: Path) -> None:
    del objects.content[f"run/{WEIGHTS}"]
    with pytest.raises(AdapterError, match=rf"://bucket/run/{WEIGHTS} is absent") as caught:
        locate_adapter(card(uri), tmp_path)
    assert caught.value.code == "adapter_file_absent"
    assert "secret" not in str(caught.value)
    with pytest.raises(AdapterError, match=r"/nowhere/adapter_config\.json is absent"):
        locate_adapter(card("dir:/nowhere"), tmp_path)


def test_a_refusal_is_told_without_credentials(uri: str, objects: Objects, tmp_path: Path) -> None:
    objects.fail("GET", *[403] * 9)
    with pytest.raises(
        AdapterError, match=r"bucket/run/adapter_config\.json cannot be fetched: "
    ) as caught:
        locate_adapter(card(uri), tmp_path)
    assert "secret" not in str(caught.value)


def test_a_uri_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="xyz://bucket/run cannot be used"):
        locate_adapter(card("xyz://bucket/run"), tmp_path)
