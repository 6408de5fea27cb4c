"""A manifest gives back what it was made of, or says that it is not what was written."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from ironcliw.errors import DamagedCheckpointError, NewerFormatError
from tests.unit.train.checkpoint.samples import FINGERPRINT
from train.checkpoint.manifest import FORMAT_VERSION, FileEntry, Manifest

FILES = (FileEntry("adapter.safetensors", 80, "0" * 64), FileEntry("state.json", 9, "1" * 64))
MANIFEST = Manifest(12, FILES, FINGERPRINT, "2026-11-23T03:00:00.000+00:00")


def resealed(change: dict[str, Any]) -> bytes:
    """A manifest with other values and a seal that fits them, as another release would write it."""
    values = {**json.loads(MANIFEST.encode()), **change}
    del values["seal"]
    text = json.dumps(values, indent=1, sort_keys=True) + "\n"
    values["seal"] = hashlib.sha256(text.encode()).hexdigest()
    return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()


def test_it_comes_back() -> None:
    assert Manifest.decode(MANIFEST.encode(), "here") == MANIFEST
    assert MANIFEST.size_bytes == 89
    assert resealed({}) == MANIFEST.encode()


def test_no_byte_may_change() -> None:
    raw = MANIFEST.encode()
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 1
        with pytest.raises(DamagedCheckpointError, match=r"^here.*damaged"):
            Manifest.decode(bytes(damaged), "here")


def test_no_byte_may_be_missing() -> None:
    raw = MANIFEST.encode()
    for length in range(len(raw)):
        with pytest.raises(DamagedCheckpointError, match=r"^here.*damaged"):
            Manifest.decode(raw[:length], "here")


@pytest.mark.parametrize("raw", [b"[" * 100_000, b"\xff\xfe", b"null", b"3", b"[]"])
def test_what_is_none(raw: bytes) -> None:
    with pytest.raises(DamagedCheckpointError, match=r"^here"):
        Manifest.decode(raw, "here")


def test_a_newer_format_is_refused() -> None:
    # with fields that this release cannot know
    raw = resealed({"format_version": FORMAT_VERSION + 1, "fingerprint": "moved", "extra": 1})
    with pytest.raises(NewerFormatError, match=r"^here has format_version 2.*up to 1; upgrade"):
        Manifest.decode(raw, "here")


@pytest.mark.parametrize(
    "change",
    [
        {"step": "12"},
        {"step": True},
        {"format_version": "1"},
        {"files": [{"name": "../../etc/passwd", "bytes": 1, "sha256": "0" * 64}]},
        {"files": [{"name": "state.json", "bytes": -1, "sha256": "0" * 64}]},
        {"files": [{"name": "state.json", "bytes": 1, "sha256": "short"}]},
        {"files": [{"name": "state.json"}]},
        {"files": [{"name": 3, "bytes": 1, "sha256": "0" * 64}]},
        {"fingerprint": {}},
    ],
)
def test_a_sealed_one_with_wrong_values(change: dict[str, Any]) -> None:
    with pytest.raises(DamagedCheckpointError, match="it was not written by ironcliw"):
        Manifest.decode(resealed(change), "here")
